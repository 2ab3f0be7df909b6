package node_test

import (
	"slices"
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
		{"overhead of nothing known", with("overhead: {podFixed: {foo: 1, hugepages-2Mi: 1}}"), "overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified\n" +
			"overhead.limits[foo]: Invalid value: \"foo\": must be a standard resource for containers\noverhead.limits[hugepages-2Mi]: Invalid value: \"1\": 1 is not positive integer multiple of hugepages-2Mi\noverhead: Forbidden: HugePages require cpu or memory"},
		{"scheduling", with("scheduling: {nodeSelector: {a: b}, tolerations: [{operator: Exists}]}"), ""},
		{"tolerations", with("scheduling: {tolerations: [{}, {key: a, operator: Exists, value: b}, {key: a, tolerationSeconds: 5}]}"),
			"tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty\nvalue must be empty when `operator` is 'Exists'\neffect must be 'NoExecute' when `tolerationSeconds` is set"},
		{"for another time", with("scheduling: {tolerations: [{key: a, effect: NoExecute, tolerationSeconds: 1}, {key: a, effect: NoExecute, tolerationSeconds: 2}]}"), "scheduling.tolerations[1]: Duplicate value"},
		{"twice", with("scheduling: {tolerations: [{key: a}, {key: a}]}"), "scheduling.tolerations[1]: Duplicate value"},
	})
}

func TestRuntimeClassWarnings(t *testing.T) {
	c := apitest.Catalogue(t, node.Kinds())
	k := apitest.Kind(t, c.Kinds(), "RuntimeClass")
	obj := apitest.Read(t, c, k, "metadata: {name: a}\nhandler: runc\nscheduling: {nodeSelector: {beta.kubernetes.io/os: linux, a: b}}")
	want := []string{`scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead`}
	if got := k.Warnings(obj, nil); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
