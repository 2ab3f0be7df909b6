package node_test

import (
	"testing"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/node"
)

func TestRuntimeClass(t *testing.T) {
	with := func(s string) string { return "metadata: {name: a}\nhandler: runc\n" + s }
	apitest.Check(t, node.Kinds(), "RuntimeClass", []apitest.Case{
		{"minimal", with(""), ""},
		{"no handler", "metadata: {name: a}", "handler: Required value"},
		{"bad handler", "handler: A_B", "handler: Invalid value: \"A_B\""},
		{"overhead", with("overhead: {podFixed: {cpu: -1}}"), "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"},
		{"scheduling", with("scheduling: {nodeSelector: {a: b}, tolerations: [{operator: Exists}]}"), ""},
		{"tolerations", with("scheduling: {tolerations: [{}, {key: a, operator: Exists, value: b}, {key: a, tolerationSeconds: 5}]}"),
			"tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty\nvalue must be empty when `operator` is 'Exists'\neffect must be 'NoExecute' when `tolerationSeconds` is set"},
		{"twice", with("scheduling: {tolerations: [{key: a}, {key: a}]}"), "scheduling.tolerations[1]: Duplicate value"},
	})
}
