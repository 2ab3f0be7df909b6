package resource_test

import (
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/resource"
)

func TestResourceClaim(t *testing.T) {
	devices := func(s string) string { return "metadata: {name: a}\nspec: {devices: {" + s + "}}" }
	requests := func(s string) string { return devices("requests: [" + s + "]") }
	apitest.Check(t, resource.Kinds(), "ResourceClaim", []apitest.Case{
		{"nothing", "metadata: {name: a}\nspec: {}", ""},
		{"one", requests("{name: r, exactly: {deviceClassName: c}}"), ""},
		{"no kind of request", requests("{name: r}"), "exactly one of `exactly` or `firstAvailable` is required"},
		{"no class", requests("{name: r, exactly: {}}"), "spec.devices.requests[0].exactly.deviceClassName: Required value"},
		{"all and some", requests("{name: r, exactly: {deviceClassName: c, allocationMode: All, count: 2}}"), "count: Invalid value: 2: must not be specified when allocationMode is 'All'"},
		{"negative", requests("{name: r, exactly: {deviceClassName: c, count: -1}}"), "count: Invalid value: -1: must be greater than zero"},
		{"twice", requests("{name: r, exactly: {deviceClassName: c}}, {name: r, exactly: {deviceClassName: c}}"), "spec.devices.requests[1]: Duplicate value: \"r\""},
		{"alternatives", requests("{name: r, firstAvailable: [{name: s, deviceClassName: c}, {name: s, deviceClassName: d}]}"), "firstAvailable[1]: Duplicate value: \"s\""},
		{"constraints", devices("requests: [{name: r, exactly: {deviceClassName: c}}], constraints: [{requests: [q], matchAttribute: a.b/c}, {matchAttribute: c}]"),
			"constraints[0].requests[0]: Invalid value: \"q\": must be the name of a request\na fully qualified name must be a domain and a name separated by a slash"},
		{"config", devices("config: [{opaque: {driver: a.b, parameters: {x: 1}}}, {}, {opaque: {driver: a.b, parameters: [1]}}]"),
			"config[1].opaque: Required value\nconfig[2].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"},
	})
	c := apitest.Catalogue(t, resource.Kinds())
	k := apitest.Kind(t, c.Kinds(), "ResourceClaim")
	claim := apitest.Read(t, c, k, requests("{name: r, exactly: {deviceClassName: c, tolerations: [{key: a, effect: NoExecute}]}}")).(*resourcev1.ResourceClaim)
	if e := claim.Spec.Devices.Requests[0].Exactly; e.AllocationMode != "ExactCount" || e.Count != 1 || e.Tolerations[0].Operator != "Equal" {
		t.Errorf("defaults %+v", e)
	}
	if got := apitest.Row(k, claim, time.Now()); got != "a|pending|<unknown>" {
		t.Error(got)
	}
	changed := claim.DeepCopy()
	changed.Spec.Devices.Requests[0].Exactly.Count = 2
	if errs := k.ValidateUpdate(changed, claim); len(errs) != 1 || errs[0].Field != "spec" || errs[0].Detail != "field is immutable" {
		t.Error(apitest.Text(errs))
	}
}

func TestResourceSlice(t *testing.T) {
	slice := func(s string) string {
		return "metadata: {name: a}\nspec: {driver: a.b, pool: {name: p, resourceSliceCount: 1}, " + s + "}"
	}
	apitest.Check(t, resource.Kinds(), "ResourceSlice", []apitest.Case{
		{"of a node", slice("nodeName: n1, devices: [{name: d1, attributes: {model: {string: x}}, capacity: {memory: {value: 1Gi}}}]"), ""},
		{"nowhere", slice("devices: []"), "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"},
		{"everywhere and here", slice("nodeName: n1, allNodes: true"), "but multiple fields are set"},
		{"not everywhere", slice("nodeName: n1, allNodes: false"), "spec.allNodes: Invalid value: false: must be either unset or set to true"},
		{"attributes", slice("nodeName: n1, devices: [{name: d1, attributes: {model: {}, a-b: {int: 1}}}]"), "a valid C identifier must start with\nexactly one value must be specified"},
		{"twice", slice("nodeName: n1, devices: [{name: d1}, {name: d1}]"), "spec.devices[1]: Duplicate value: \"d1\""},
		{"taints", slice("nodeName: n1, devices: [{name: d1, taints: [{key: a, effect: Maybe}]}]"), "effect: Unsupported value: \"Maybe\""},
	})
}

func TestOthers(t *testing.T) {
	apitest.Check(t, resource.Kinds(), "DeviceClass", []apitest.Case{
		{"minimal", "metadata: {name: a}\nspec: {}", ""},
		{"a selector of nothing", "metadata: {name: a}\nspec: {selectors: [{}]}", "spec.selectors[0].cel: Required value"},
	})
	apitest.Check(t, resource.Kinds(), "ResourceClaimTemplate", []apitest.Case{
		{"minimal", "metadata: {name: a}\nspec: {spec: {}}", ""},
		{"no class", "metadata: {name: a}\nspec: {spec: {devices: {requests: [{name: r, exactly: {}}]}}}", "spec.spec.devices.requests[0].exactly.deviceClassName: Required value"},
	})
}
