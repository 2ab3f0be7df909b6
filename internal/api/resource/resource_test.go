package resource_test

import (
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

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
		{"twice", requests("{name: r, exactly: {deviceClassName: c}}, {name: r, exactly: {deviceClassName: c}}"), "spec.devices.requests[1]: Duplicate value: {\"name\":\"r\",\"exactly\""},
		{"alternatives", requests("{name: r, firstAvailable: [{name: s, deviceClassName: c}, {name: s, deviceClassName: d}]}"), "firstAvailable[1]: Duplicate value: {\"name\":\"s\""},
		{"constraints", devices("requests: [{name: r, exactly: {deviceClassName: c}}], constraints: [{requests: [q], matchAttribute: a.b/c}, {matchAttribute: c}]"),
			"constraints[0].requests[0]: Invalid value: \"q\": must be the name of a request\na fully qualified name must be a domain and a name separated by a slash"},
		{"a long class of an alternative", requests("{name: r, firstAvailable: [{name: s, deviceClassName: " + strings.Repeat("a", 254) + "}]}"), "firstAvailable[0].deviceClassName: Invalid value: \"" + strings.Repeat("a", 254) + "\": must be no more than 253 bytes"},
		{"a mode that there isn't", requests("{name: r, exactly: {deviceClassName: c, allocationMode: Some}}"), "exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\""},
		{"both kinds of request", requests("{name: R, exactly: {}, firstAvailable: [{name: s}]}"),
			"spec.devices.requests[0].name: Invalid value: \"R\"\nspec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set\nspec.devices.requests[0].firstAvailable[0].deviceClassName: Required value"},
		{"complaints about items come before those about pairs", requests("{name: r, exactly: {}}, {name: r, exactly: {}}"),
			"requests[0].exactly.deviceClassName: Required value\nrequests[1].exactly.deviceClassName: Required value\nspec.devices.requests[1]: Duplicate value: {\"name\":\"r\""},
		{"too many alternatives are not looked at", requests("{name: r, firstAvailable: [" + strings.Repeat("{name: s}, ", 9) + "]}"), "firstAvailable: Too many: 9: must have at most 8 items"},
		{"too many selectors", requests("{name: r, exactly: {deviceClassName: c, selectors: [" + strings.Repeat("{}, ", 33) + "]}}"), "selectors: Too many: 33: must have at most 32 items"},
		{"references", devices("requests: [{name: r, firstAvailable: [{name: s, deviceClassName: c}]}], constraints: [{requests: [r/s, r, r/t, a/b/c, R], matchAttribute: a.b/c}]"),
			"requests[2]: Invalid value: \"r/t\": must be the name of a request\nrequests[3]: Invalid value: \"a/b/c\": must be the name of a request\nrequests[4]: Invalid value: \"R\": a lowercase RFC 1123 label\nrequests[4]: Invalid value: \"R\": must be the name of a request"},
		{"two attributes", devices("constraints: [{matchAttribute: a.b/c, distinctAttribute: c}]"), "distinctAttribute: Invalid value: \"c\": a fully qualified name must be"},
		{"a distinct attribute", devices("constraints: [{distinctAttribute: c-d}]"),
			"distinctAttribute: Invalid value: \"c-d\": a valid C identifier\ndistinctAttribute: Invalid value: \"c-d\": a fully qualified name must be"},
		{"large parameters", devices("config: [{opaque: {driver: a.b, parameters: {x: " + strings.Repeat("x", 10<<10) + "}}}]"), "parameters: Too long: may not be more than 10240 bytes"},
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

// TestClaimStatus: who allocates devices is checked like a user.
func TestClaimStatus(t *testing.T) {
	const doc = "metadata: {name: a}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}\n"
	const share = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
	var changes []apitest.Change
	result := func(more string) string {
		return doc + "status: {allocation: {devices: {results: [{request: r, driver: d.example.com, pool: p, device: x" + more + "}]}}"
	}
	for _, tt := range []struct{ name, doc, want string }{
		{"allocated", result("") + "}", ""},
		{"a share", result(", shareID: "+share) + ", devices: [{driver: d.example.com, pool: p, device: x, shareID: " + share + "}]}", ""},
		{"no share", result(", shareID: 6BA7B810-9dad-11d1-80b4-00c04fd430c8") + "}", "results[0].shareID: Invalid value: \"6BA7B810-9dad-11d1-80b4-00c04fd430c8\": must be a lowercase UUID in 8-4-4-4-12 format"},
		{"tolerations", result(", tolerations: [{key: k, operator: Foo}]") + "}", "results[0].tolerations[0].operator: Unsupported value: \"Foo\""},
		{"what is off by default", result(", skipNodeOperations: [x]") + "}", ""},
		{"no pool and no driver", doc + "status: {allocation: {devices: {results: [{request: r, driver: D_, pool: P_/x//, device: x}]}}}",
			"results[0].driver: Invalid value: \"D_\": an RFC 1123 subdomain\nresults[0].pool: Invalid value: \"P_\": segment 0: a lowercase\nsegment 2: must not be empty\nsegment 3: must not be empty"},
		{"conditions", result(", bindingConditions: [a]") + "}", "results[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required"},
		{"network", result("") + ", devices: [{driver: d.example.com, pool: p, device: x, networkData: {interfaceName: " + strings.Repeat("x", 257) + ", hardwareAddress: " + strings.Repeat("x", 129) + ", ips: [192.0.2.1, 192.0.2.1/24, 192.0.2.1/24]}}]}",
			"networkData.ips[0]: Invalid value: \"192.0.2.1\"\nnetworkData.interfaceName: Too long: may not be more than 256 bytes\nnetworkData.ips[2]: Duplicate value: \"192.0.2.1/24\"\nnetworkData.hardwareAddress: Too long: may not be more than 128 bytes"},
		{"the same user twice, and nobody", result("") + ", reservedFor: [{resource: pods, name: p, uid: u}, {resource: pods, name: p, uid: u}, {}]}",
			"reservedFor[2].resource: Required value\nreservedFor[2].name: Required value\nreservedFor[2].uid: Required value\nreservedFor[1]: Duplicate value: {\"resource\":\"pods\",\"name\":\"p\",\"uid\":\"u\"}"},
	} {
		changes = append(changes, apitest.Change{tt.name, doc, tt.doc, tt.want})
	}
	apitest.CheckChanges(t, resource.Kinds(), "ResourceClaim", "status", changes)
}

// TestChanges: what was accepted before stays, and a slice's place doesn't change.
func TestChanges(t *testing.T) {
	c := apitest.Catalogue(t, resource.Kinds())
	slices := apitest.Kind(t, c.Kinds(), "ResourceSlice")
	const doc = "metadata: {name: a}\nspec: {driver: a.b, nodeName: n, pool: {name: p, resourceSliceCount: 1}, devices: [{name: d, taints: [{key: a, effect: Newer}]}]}"
	stored := apitest.Read(t, c, slices, doc).(*resourcev1.ResourceSlice)
	if got := apitest.Text(slices.ValidateUpdate(stored.DeepCopy(), stored)); got != "" {
		t.Errorf("a stored taint is judged again: %s", got)
	}
	moved := stored.DeepCopy()
	moved.Spec.NodeName, moved.Spec.Pool.Name, moved.Spec.Driver = new("m"), "q", "c.d"
	moved.Spec.Devices = nil
	want := "spec.pool.name: Invalid value: \"q\": field is immutable\nspec.driver: Invalid value: \"c.d\": field is immutable\nspec.nodeName: Invalid value: \"m\": field is immutable"
	if got := apitest.Text(slices.ValidateUpdate(moved, stored)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	claims := apitest.Kind(t, c.Kinds(), "ResourceClaim")
	claim := apitest.Read(t, c, claims, "metadata: {name: a}").(*resourcev1.ResourceClaim)
	changed := claim.DeepCopy()
	changed.Spec.Devices.Requests = []resourcev1.DeviceRequest{{}}
	if errs := claims.ValidateUpdate(changed, claim); len(errs) != 1 || errs[0].Detail != "field is immutable" {
		t.Errorf("besides being immutable: %s", apitest.Text(errs))
	}
	rules := apitest.Kind(t, c.Kinds(), "DeviceTaintRule")
	rule := apitest.Read(t, c, rules, "metadata: {name: a}\nspec: {taint: {key: a, effect: Newer}}").(*resourcev1.DeviceTaintRule)
	if got := apitest.Text(rules.ValidateUpdate(rule.DeepCopy(), rule)); got != "" {
		t.Errorf("a stored effect is judged again: %s", got)
	}
	if errs := rules.Validate(rule); len(errs) != 1 || errs[0].Field != "spec.taint.effect" {
		t.Errorf("a new effect: %s", apitest.Text(errs))
	}
	rule.Status.Conditions = make([]metav1.Condition, 9)
	if errs := rules.ValidateStatusUpdate(rule, rule); len(errs) == 0 || errs[len(errs)-1].Type != field.ErrorTypeTooMany {
		t.Errorf("nine conditions: %s", apitest.Text(errs))
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
		{"attributes", slice("nodeName: n1, devices: [{name: d1, attributes: {model: {}, a-b: {int: 1}}}]"), "a valid C identifier must start with\nmust specify one of: `int`, `bool`"},
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

// TestTaintColumns: the table of taint rules shows the taint.
func TestTaintColumns(t *testing.T) {
	c := apitest.Catalogue(t, resource.Kinds())
	k := apitest.Kind(t, c.Kinds(), "DeviceTaintRule")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rule := apitest.Read(t, c, k, "metadata: {name: a}\nspec: {taint: {key: e.com/k, value: v, effect: NoSchedule, timeAdded: '2026-01-02T03:03:05Z'}}")
	if got := apitest.Row(k, rule, now); got != "a|e.com/k|v|NoSchedule|60s|<unknown>" {
		t.Error(got)
	}
}

// TestTemplateMetadata: of a template's metadata claims inherit labels and annotations alone; names of capacities are free.
func TestTemplateMetadata(t *testing.T) {
	template := func(meta, capacity string) string {
		return "metadata: {name: a}\nspec: {metadata: {" + meta + "}, spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c" + capacity + "}}]}}}"
	}
	apitest.Check(t, resource.Kinds(), "ResourceClaimTemplate", []apitest.Case{
		{"labels", template("labels: {a: b}", ""), ""},
		{"a link", template("selfLink: x", ""), "spec.metadata.selfLink: Forbidden: cannot be set"},
		{"a grace period", template("deletionGracePeriodSeconds: 1", ""), "spec.metadata.deletionGracePeriodSeconds: Forbidden: cannot be set"},
		{"managed fields", template("managedFields: [{manager: m}]", ""), "spec.metadata.managedFields: Forbidden: cannot be set"},
		{"an odd capacity", template("", ", capacity: {requests: {'odd name': 1}}"), ""},
	})
}
