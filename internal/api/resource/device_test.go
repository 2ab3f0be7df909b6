package resource_test

import (
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/resource"
)

func slice(spec string) string {
	return "metadata: {name: s}\nspec: {driver: d.example.com, pool: {name: p, generation: 1, resourceSliceCount: 1}, " + spec + "}"
}

func TestDevices(t *testing.T) {
	device := func(more string) string { return slice("nodeName: node-1, devices: [{name: a, " + more + "}]") }
	apitest.Check(t, resource.Kinds(), "ResourceSlice", []apitest.Case{
		{"counters", slice("nodeName: node-1, sharedCounters: [{name: c, counters: {mem: {value: 1Gi}}}]"), ""},
		{"counters twice, one without any", slice("nodeName: node-1, sharedCounters: [{name: c, counters: {mem: {value: 1Gi}}}, {name: c}]"),
			"spec.sharedCounters[1]: Duplicate value: {\"name\":\"c\"}\nspec.sharedCounters[1].counters: Required value"},
		{"counters and devices", slice("nodeName: node-1, sharedCounters: [{name: c, counters: {mem: {value: 1Gi}}}], devices: [{name: a}]"),
			"only one of `sharedCounters` or `devices` is allowed"},
		{"consumption", device("consumesCounters: [{counterSet: '', counters: {Bad_Name: {value: 1}}}]"),
			"consumesCounters[0].counterSet: Required value\nconsumesCounters[0].counters: Invalid value: \"Bad_Name\""},
		{"a version", device("attributes: {v: {version: '1.2'}}"), "must be a string compatible with semver.org spec 2.0.0"},
		{"a long text", device("attributes: {v: {string: " + strings.Repeat("x", 65) + "}}"), "attributes[v].string: Too long"},
		{"nothing", device("attributes: {v: {}}"), "must specify one of: `int`, `bool`"},
		{"its own nodes", slice("perDeviceNodeSelection: true, devices: [{name: a, nodeName: node-1}, {name: b, allNodes: true}]"), ""},
		{"no nodes of its own", slice("perDeviceNodeSelection: true, devices: [{name: a}]"), "when `perDeviceNodeSelection` is set to true"},
		{"nodes of its own for nothing", device("allNodes: true"), "can only be set if `perDeviceNodeSelection` is set to true"},
		{"two terms", slice("nodeSelector: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}, {matchExpressions: [{key: b, operator: Exists}]}]}"),
			"must have exactly one node selector term"},
		{"conditions", device("bindingConditions: [a, a], bindingFailureConditions: [b]"), "bindingConditions[1]: Duplicate value"},
		{"no way to fail", device("bindingConditions: [a]"), "bindingFailureConditions are required to use bindingConditions"},
		{"a policy", device("allowMultipleAllocations: true, capacity: {m: {value: 4, requestPolicy: {default: '1', validValues: ['1', '2']}}}"), ""},
		{"a policy for nobody", device("capacity: {m: {value: 4, requestPolicy: {default: '1'}}}"), "allowMultipleAllocations must be true"},
		{"an unknown default", device("allowMultipleAllocations: true, capacity: {m: {value: 4, requestPolicy: {default: '3', validValues: ['2', '1', '8']}}}"),
			"validValues[1]: Invalid value: \"1\": values must be sorted\nvalidValues[2]: Invalid value: \"8\": option is larger than capacity\nrequestPolicy.validValues: Invalid value: \"3\": default value is not valid"},
		{"too many", slice("nodeName: node-1, devices: [" + strings.Repeat("{name: a, taints: [{key: k, effect: NoSchedule}]}, ", 64) + "{name: b}]"),
			"spec.devices: Too many: 65: must have at most 64 items"},
		{"a name with a domain", device("attributes: {/a: {int: 1}, a.b/: {int: 1}, A_B/c: {int: 1}, a/b/c: {int: 1}}"),
			"attributes: Invalid value: \"\": the domain must not be empty\nattributes: Invalid value: \"A_B\": a lowercase RFC 1123 subdomain\nattributes: Invalid value: \"\": the name must not be empty"},
		{"the name of what it consumes", device("consumesCounters: [{counterSet: A_B, counters: {c: {value: 1}}}, {counterSet: c, counters: {c: {value: 1}}}, {counterSet: c, counters: {c: {value: 1}}}]"),
			"consumesCounters: Too many: 3: must have at most 2 items"},
		{"consumed names", device("consumesCounters: [{counterSet: A_B, counters: {c: {value: 1}}}]"), "consumesCounters[0].counterSet: Invalid value: \"A_B\""},
		{"both ready and failed", device("bindingConditions: [a, b], bindingFailureConditions: [b, c, c]"),
			"bindingFailureConditions[0]: Invalid value: \"b\": bindingFailureConditions must not overlap\nbindingFailureConditions[2]: Duplicate value: \"c\""},
		{"two terms of one device", slice("perDeviceNodeSelection: true, devices: [{name: a, nodeSelector: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}, {matchExpressions: [{key: b, operator: Exists}]}]}}]"), ""},
		{"a range", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '2', validRange: {min: '2', max: '6', step: '2'}}}}"), ""},
		{"a range without an end", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '2', validRange: {max: '6'}}}}"), "validRange.min: Required value: required when validRange is defined"},
		{"a range without a default", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {validRange: {min: '1'}}}}"), "requestPolicy.default: Required value: required when validRange is defined"},
		{"a wide range", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '1', validRange: {min: '9', max: '10'}}}}"),
			"validRange.min: Invalid value: \"9\": min is larger than capacity value: 8\nvalidRange.default: Invalid value: \"1\": default is less than min: 9\nvalidRange.max: Invalid value: \"10\": max is larger than capacity value: 8"},
		{"a range upside down", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '5', validRange: {min: '4', max: '3'}}}}"),
			"validRange.max: Invalid value: \"4\": min is larger than max: 3\nvalidRange.default: Invalid value: \"5\": default is more than max: 3"},
		{"steps", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '4', validRange: {min: '1', max: '6', step: '8'}}}}"),
			"validRange.step: Invalid value: \"8\": one step 9 is larger than capacity value: 8\nvalue is not a multiple of a given step (8) from (1)\nvalue is not a multiple of a given step (8) from (1)"},
		{"no step", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '4', validRange: {min: '1', step: '0'}}}}"), "validRange.step: Invalid value: \"0\": must be greater than zero"},
		{"a range of more than 64 bits", device("allowMultipleAllocations: true, capacity: {m: {value: 1e30, requestPolicy: {default: '1', validRange: {min: '1', max: '1e20', step: '1e19'}}}}"),
			"validRange.max: Invalid value: \"100e18\": must not be larger than 9223372036854775807\nvalidRange.step: Invalid value: \"10e18\": must not be larger than 9223372036854775807"},
		{"a range below nothing", device("allowMultipleAllocations: true, capacity: {m: {value: 8, requestPolicy: {default: '-1', validRange: {min: '-2', step: '1'}}}}"),
			"validRange.default: Invalid value: \"-1\": must be greater than or equal to 0\nvalidRange.min: Invalid value: \"-2\": must be greater than or equal to 0"},
		{"counters of no set", device("consumesCounters: [{counters: {m: {value: 1}}}]"), "spec.devices[0].consumesCounters[0].counterSet: Required value"},
	})
}

// What is behind gates that are off is dropped, unless it is stored already.
func TestDisabledDeviceFields(t *testing.T) {
	c := apitest.Catalogue(t, resource.Kinds())
	k := apitest.Kind(t, c.Kinds(), "ResourceSlice")
	const more = "nodeName: node-1, skipNodeOperations: ['*'], devices: [{name: a, attributes: {v: {int: 1, ints: [1]}}}]"
	made, errs := apitest.Create(t, c, k, slice(more))
	if s := made.(*resourcev1.ResourceSlice); len(errs) > 0 || s.Spec.SkipNodeOperations != nil || s.Spec.Devices[0].Attributes["v"].IntValues != nil {
		t.Errorf("made %v %+v", errs, s.Spec)
	}
	stored, sent := apitest.Read(t, c, k, slice(more)), apitest.Read(t, c, k, slice(more))
	k.PrepareForUpdate(sent, stored)
	if s := sent.(*resourcev1.ResourceSlice); s.Spec.SkipNodeOperations == nil {
		t.Error("what is stored was dropped")
	}
	k = apitest.Kind(t, c.Kinds(), "ResourceClaim")
	claim, _ := apitest.Create(t, c, k, "metadata: {name: c}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: c, derivedAttributes: [{name: a.b/c, expression: x}]}}]}}")
	if got := claim.(*resourcev1.ResourceClaim).Spec.Devices.Requests[0].Exactly.DerivedAttributes; got != nil {
		t.Errorf("derived attributes %v", got)
	}
}

func TestSelectors(t *testing.T) {
	class := func(expression string) string {
		return "metadata: {name: c}\nspec: {selectors: [{cel: {expression: \"" + expression + "\"}}]}"
	}
	apitest.Check(t, resource.Kinds(), "DeviceClass", []apitest.Case{
		{"fine", class(`device.driver == 'd' && device.attributes['d'].model == 'x' && device.capacity['d'].mem.compareTo(quantity('1Gi')) >= 0`), ""},
		{"bound", class(`cel.bind(a, device.attributes['d'], a.exists(k, k == 'x')) && device.allowMultipleAllocations`), ""},
		{"no such field", class("device.nope"), "undefined field 'nope'"},
		{"a text", class("'x'"), "must evaluate to bool or the unknown type, not string"},
		{"too long", class("true" + strings.Repeat(" ", resourcev1.CELSelectorExpressionMaxLength)), "Too long"},
		{"too dear", class(`device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a == b))))`), "too complex, exceeds cost limit"},
	})
}

func TestAdminAccess(t *testing.T) {
	c := apitest.Catalogue(t, resource.Kinds())
	k := apitest.Kind(t, c.Kinds(), "ResourceClaim")
	obj, errs := apitest.Create(t, c, k, "metadata: {name: c}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: c, adminAccess: true}}]}}")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if got := apitest.Text(k.ValidateInNamespace(obj, nil, nil)); !strings.Contains(got, "spec.devices.requests[0].adminAccess: Forbidden") {
		t.Errorf("anywhere: %q", got)
	}
	if got := apitest.Text(k.ValidateInNamespace(obj, nil, map[string]string{"resource.kubernetes.io/admin-access": "true"})); got != "" {
		t.Errorf("in a namespace of administrators: %q", got)
	}
	old, yes := obj.(*resourcev1.ResourceClaim), true
	now := old.DeepCopy()
	now.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{AdminAccess: &yes}}}}
	if got := apitest.Text(k.ValidateInNamespace(now, old, nil)); !strings.Contains(got, "status.allocation.devices.results[0].adminAccess: Forbidden") {
		t.Errorf("allocated anywhere: %q", got)
	}
}
