package dynamicresources

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// published makes a slice of a pool for all nodes, to be changed.
func published(name string, change func(*resourcev1.ResourceSliceSpec), devices ...string) *resourcev1.ResourceSlice {
	all := true
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{Driver: driver, AllNodes: &all, Pool: resourcev1.ResourcePool{Name: "pool", Generation: 1, ResourceSliceCount: 1}}}
	for _, d := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: d})
	}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func exactly(name string, change func(*resourcev1.ExactDeviceRequest)) resourcev1.DeviceRequest {
	e := &resourcev1.ExactDeviceRequest{DeviceClassName: "toy"}
	if change != nil {
		change(e)
	}
	return resourcev1.DeviceRequest{Name: name, Exactly: e}
}

func everything(e *resourcev1.ExactDeviceRequest) {
	e.AllocationMode = resourcev1.DeviceAllocationModeAll
}

func where(expression string) func(*resourcev1.ExactDeviceRequest) {
	return func(e *resourcev1.ExactDeviceRequest) {
		e.Selectors = append(e.Selectors, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: expression}})
	}
}

func claimOf(name string, requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("u-" + name)}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}}}
}

// outcome is what claims get on a node: "request=device ..." for each, "none", or why not.
func (v *Inventory) outcome(node plainNode, claims ...*resourcev1.ResourceClaim) string {
	for _, c := range claims {
		v.SetClaim(c)
	}
	a, err := v.Prepare(claims)
	if err != nil {
		return err.Error()
	}
	fits := a.Fits(node)
	why := a.Problem()
	got := a.Allocate(node)
	if fits != (got != nil) {
		return fmt.Sprintf("fits %v, allocated %v", fits, got)
	}
	if got == nil {
		if why != "" {
			return why
		}
		return "none"
	}
	var out []string
	for i, one := range got {
		for _, r := range one.Devices.Results {
			out = append(out, r.Request+"="+r.Device)
		}
		v.Promise(claims[i].UID, one)
	}
	return strings.Join(out, " ")
}

func toys(slices ...*resourcev1.ResourceSlice) *Inventory {
	v := New(numbered())
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}})
	for _, s := range slices {
		v.SetSlice(s)
	}
	return v
}

func named(name string) *v1.NodeSelector {
	return &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn, Values: []string{name}}}}}}
}

func TestPools(t *testing.T) {
	one := exactly("r", nil)
	of := func(n int64) func(*resourcev1.ResourceSliceSpec) {
		return func(s *resourcev1.ResourceSliceSpec) { s.Pool.ResourceSliceCount = n }
	}
	newer := func(s *resourcev1.ResourceSliceSpec) { s.Pool.Generation = 2 }
	in := func(pool, node string) func(*resourcev1.ResourceSliceSpec) {
		return func(s *resourcev1.ResourceSliceSpec) {
			if s.Pool.Name = pool; node != "" {
				s.AllNodes, s.NodeName = nil, &node
			}
		}
	}
	waiting := func(pool string) func(*resourcev1.ResourceSliceSpec) {
		return func(s *resourcev1.ResourceSliceSpec) {
			s.Pool.Name, s.Devices[0].BindingConditions = pool, []string{"ready"}
		}
	}
	either := resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{{Name: "s", DeviceClassName: "toy", AllocationMode: resourcev1.DeviceAllocationModeAll}}}
	onNode := func(node string) func(*resourcev1.ResourceSliceSpec) {
		return func(s *resourcev1.ResourceSliceSpec) { s.AllNodes, s.NodeName = nil, &node }
	}
	yes := true
	a, b := "a", "b"
	for _, tt := range []struct {
		name   string
		slices []*resourcev1.ResourceSlice
		node   plainNode
		claim  resourcev1.DeviceRequest
		want   string
	}{
		{"no devices", nil, "a", one, "none"},
		{"for all nodes", []*resourcev1.ResourceSlice{published("s", nil, "x")}, "a", one, "r=x"},
		{"on the node", []*resourcev1.ResourceSlice{published("s", onNode("a"), "x")}, "a", one, "r=x"},
		{"on another node", []*resourcev1.ResourceSlice{published("s", onNode("b"), "x")}, "a", one, "none"},
		{"for nodes that are selected", []*resourcev1.ResourceSlice{published("s", func(s *resourcev1.ResourceSliceSpec) { s.AllNodes, s.NodeSelector = nil, named("a") }, "x")}, "a", one, "r=x"},
		{"for other nodes", []*resourcev1.ResourceSlice{published("s", func(s *resourcev1.ResourceSliceSpec) { s.AllNodes, s.NodeSelector = nil, named("a") }, "x")}, "b", one, "none"},
		{"each device for its own nodes", []*resourcev1.ResourceSlice{published("s", func(s *resourcev1.ResourceSliceSpec) {
			s.AllNodes, s.PerDeviceNodeSelection = nil, &yes
			s.Devices[0].NodeName, s.Devices[1].NodeName, s.Devices[2].AllNodes, s.Devices[3].NodeSelector = &b, &a, &yes, named("b")
		}, "w", "x", "y", "z")}, "b", exactly("r", everything), "r=w r=y r=z"},
		{"the newest generation", []*resourcev1.ResourceSlice{published("old", nil, "x"), published("new", newer, "y")}, "a", exactly("r", everything), "r=y"},
		{"slices are missing", []*resourcev1.ResourceSlice{published("s", of(2), "x")}, "a", one, "none"},
		{"slices are missing, all are wanted", []*resourcev1.ResourceSlice{published("s", of(2), "x")}, "a", exactly("r", everything),
			"claim ns/c, request r: asks for all devices, but resource pool toys.example.com/pool is currently being updated"},
		{"all slices are there", []*resourcev1.ResourceSlice{published("s", of(2), "x"), published("t", of(2), "y")}, "a", exactly("r", everything), "r=x r=y"},
		{"a name twice", []*resourcev1.ResourceSlice{published("s", of(2), "x"), published("t", of(2), "x")}, "a", one, "none"},
		{"a name twice, all are wanted", []*resourcev1.ResourceSlice{published("s", of(2), "x"), published("t", of(2), "x")}, "a", exactly("r", everything),
			"claim ns/c, request r: asks for all devices, but resource pool toys.example.com/pool is currently invalid"},
		{"slices are missing, all are wanted as an alternative", []*resourcev1.ResourceSlice{published("s", of(2), "x")}, "a", either,
			"claim ns/c, request s: asks for all devices, but resource pool toys.example.com/pool is currently being updated"},
		{"the pool whose name comes first, for all nodes", []*resourcev1.ResourceSlice{published("s", in("n", "a"), "x"), published("t", in("m", ""), "y")}, "a", one, "r=y"},
		{"the pool whose name comes first, on the node", []*resourcev1.ResourceSlice{published("s", in("n", "a"), "x"), published("t", in("o", ""), "y")}, "a", one, "r=x"},
		{"what must be waited for comes last", []*resourcev1.ResourceSlice{published("s", in("n", "a"), "x"), published("t", waiting("m"), "y")}, "a", one, "r=x"},
		{"more than a claim may have", []*resourcev1.ResourceSlice{published("s", nil, "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "y0", "y1", "y2", "y3", "y4", "y5", "y6", "y7", "y8", "y9",
			"z0", "z1", "z2", "z3", "z4", "z5", "z6", "z7", "z8", "z9", "w0", "w1", "w2")}, "a", exactly("r", everything),
			"claim ns/c, request r: adding 33 devices exceeds the claim limit of 32, with 0 already accounted for"},
		{"no such counters", []*resourcev1.ResourceSlice{published("s", func(s *resourcev1.ResourceSliceSpec) {
			s.Devices[0].ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "none"}}
		}, "x")}, "a", one, "none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := toys(tt.slices...).outcome(tt.node, claimOf("c", tt.claim)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestAllOrNothing: of all devices of a node that don't go together it is said which one doesn't, also from memory; where they do nothing is.
func TestAllOrNothing(t *testing.T) {
	red, blue := "red", "blue"
	on := func(node, pool string, colours ...string) *resourcev1.ResourceSlice {
		out := published(pool, func(s *resourcev1.ResourceSliceSpec) { s.AllNodes, s.NodeName, s.Pool.Name = nil, &node, pool }, "x", "y")
		for i := range colours {
			out.Spec.Devices[i].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"colour": {StringValue: &colours[i]}}
		}
		return out
	}
	colour := resourcev1.FullyQualifiedName(driver + "/colour")
	for _, tt := range []struct {
		name       string
		constraint resourcev1.DeviceConstraint
		a, b       string
	}{
		{"alike", resourcev1.DeviceConstraint{MatchAttribute: &colour}, "", "claim ns/c, request r: cannot add device toys.example.com/b/y because a claim constraint would not be satisfied"},
		{"different", resourcev1.DeviceConstraint{DistinctAttribute: &colour}, "claim ns/c, request r: cannot add device toys.example.com/a/y because a claim constraint would not be satisfied", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := toys(on("a", "a", red, red), on("b", "b", red, blue))
			c := claimOf("c", exactly("r", everything))
			c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{tt.constraint}
			v.SetClaim(c)
			ask, err := v.Prepare([]*resourcev1.ResourceClaim{c})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				for node, want := range map[plainNode]string{"a": tt.a, "b": tt.b} {
					if fits := ask.Fits(node); fits != (want == "") || ask.Problem() != want {
						t.Errorf("on %s: %v, %s", node, fits, ask.Problem())
					}
				}
			}
		})
	}
}

func TestSelectors(t *testing.T) {
	text, number, truth, release := "big", int64(7), true, "1.2.3"
	s := published("s", nil, "x", "y")
	s.Spec.Devices[0].Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
		"size": {StringValue: &text}, "n": {IntValue: &number}, "ok": {BoolValue: &truth}, "other.example.com/version": {VersionValue: &release},
	}
	s.Spec.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("10Gi")}}
	for expression, want := range map[string]string{
		`device.driver == "toys.example.com"`:                                                                                        "r=x",
		`device.attributes["toys.example.com"].?size.orValue("") == "big"`:                                                           "r=x",
		`device.attributes["toys.example.com"].?size.orValue("") != "big"`:                                                           "r=y",
		`"n" in device.attributes["toys.example.com"] && device.attributes["toys.example.com"].n > 6`:                                "r=x",
		`cel.bind(d, device.attributes["toys.example.com"], has(d.ok) && d.ok)`:                                                      "r=x",
		`device.attributes["other.example.com"].?version.orValue(semver("0.0.1")).isGreaterThan(semver("1.0.0"))`:                    "r=x",
		`has(device.capacity["toys.example.com"].memory) && device.capacity["toys.example.com"].memory.isLessThan(quantity("11Gi"))`: "r=x",
		`device.attributes["nobody.example.com"].?size.hasValue()`:                                                                   "none",
		`device.allowMultipleAllocations`:                                                                                            "none",
		`device.attributes["toys.example.com"].nosuch == 1`:                                                                          "claim ns/c: selector #0 on device toys.example.com/pool/x: CEL runtime error: no such key: nosuch. consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields",
		`device.driver`: "claim ns/c: selector #0: CEL compile error: must evaluate to bool or the unknown type, not string",
		`[0].map(a, [0].map(b, [0].map(c, [0]))).size() > device.nosuch`: "claim ns/c: selector #0: CEL compile error: compilation failed: ERROR: <input>:1:",
	} {
		if got := toys(s).outcome("a", claimOf("c", exactly("r", where(expression)))); got != want && !(strings.HasPrefix(got, want) && len(want) > 60) {
			t.Errorf("%s\ngot  %s\nwant %s", expression, got, want)
		}
	}
	v := toys(s)
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}, Spec: resourcev1.DeviceClassSpec{Selectors: exactly("", where(`device.attributes["toys.example.com"].?ok.orValue(false)`)).Exactly.Selectors}})
	if got := v.outcome("a", claimOf("c", exactly("r", everything))); got != "r=x" {
		t.Error(got)
	}
	for _, tt := range []struct{ name, class, want string }{{"class", "none", "request r: device class none does not exist"}} {
		if got := v.outcome("a", claimOf("c", exactly("r", func(e *resourcev1.ExactDeviceRequest) { e.DeviceClassName = tt.class }))); got != tt.want {
			t.Error(got)
		}
	}
	many := claimOf("many", exactly("r", func(e *resourcev1.ExactDeviceRequest) { e.Count = 30 }), exactly("s", func(e *resourcev1.ExactDeviceRequest) { e.Count = 3 }))
	if got := v.outcome("a", many); got != "claim ns/many, request s: adding 3 devices exceeds the claim limit of 32, with 30 already accounted for" {
		t.Error(got)
	}
}

// TestTaints: those of drivers and those of rules, which come and go.
func TestTaints(t *testing.T) {
	s := published("s", func(s *resourcev1.ResourceSliceSpec) {
		s.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "old", Value: "1", Effect: resourcev1.DeviceTaintEffectNoSchedule}, {Key: "rusty", Effect: resourcev1.DeviceTaintEffectNone}}
	}, "x", "y")
	v := toys(s)
	if got := v.outcome("a", claimOf("all", exactly("r", everything))); got != "none" {
		t.Error(got)
	}
	tolerant := exactly("r", func(e *resourcev1.ExactDeviceRequest) {
		everything(e)
		e.Tolerations = []resourcev1.DeviceToleration{{Key: "old", Operator: resourcev1.DeviceTolerationOpEqual, Value: "1"}}
	})
	if got := v.outcome("a", claimOf("tolerant", tolerant)); got != "r=x r=y" {
		t.Error(got)
	}
	v.RemoveClaim("ns", "tolerant")
	device := "y"
	v.SetRule(&resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "rule"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Device: &device}, Taint: resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}})
	if got := v.outcome("a", claimOf("c", exactly("r", nil))); got != "none" {
		t.Error(got)
	}
	v.RemoveRule("rule")
	if got := v.outcome("a", claimOf("c", exactly("r", nil))); got != "r=y" {
		t.Error(got)
	}
}

// TestResult is about what is written besides the devices.
func TestResult(t *testing.T) {
	yes := true
	s := published("s", func(s *resourcev1.ResourceSliceSpec) {
		s.AllNodes, s.NodeSelector = nil, &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: named("a").NodeSelectorTerms[0].MatchFields, MatchExpressions: []v1.NodeSelectorRequirement{{Key: "k", Operator: v1.NodeSelectorOpExists}}}}}
		s.Devices[0].BindingConditions = []string{"Ready"}
		s.Devices[2].BindsToNode = &yes
	}, "x", "y", "z")
	v := toys(s)
	opaque := func(text string) resourcev1.DeviceConfiguration {
		return resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: driver, Parameters: runtime.RawExtension{Raw: []byte(text)}}}
	}
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}, Spec: resourcev1.DeviceClassSpec{Config: []resourcev1.DeviceClassConfiguration{{DeviceConfiguration: opaque("class")}}}})
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "rare"}, Spec: resourcev1.DeviceClassSpec{Selectors: exactly("", where("false")).Exactly.Selectors, Config: []resourcev1.DeviceClassConfiguration{{DeviceConfiguration: opaque("rare")}}}})
	c := claimOf("c", exactly("r", nil), resourcev1.DeviceRequest{Name: "s", FirstAvailable: []resourcev1.DeviceSubRequest{{Name: "best", DeviceClassName: "rare"}, {Name: "good", DeviceClassName: "toy"}}})
	for _, requests := range [][]string{nil, {"s/good"}, {"s/best"}, {"r", "s"}} {
		c.Spec.Devices.Config = append(c.Spec.Devices.Config, resourcev1.DeviceClaimConfiguration{Requests: requests, DeviceConfiguration: opaque(fmt.Sprint(requests))})
	}
	v.SetClaim(c)
	a, err := v.Prepare([]*resourcev1.ResourceClaim{c})
	if err != nil {
		t.Fatal(err)
	}
	got := a.Allocate(plainNode("a"))[0]
	r := got.Devices.Results
	if len(r) != 2 || r[0].Request != "r" || r[0].Device != "x" || r[0].BindingConditions[0] != "Ready" || r[1].Request != "s/good" || r[1].Device != "y" || r[0].AdminAccess != nil || r[0].ShareID != nil {
		t.Errorf("results %+v", r)
	}
	var config []string
	for _, one := range got.Devices.Config {
		config = append(config, fmt.Sprintf("%s %v %s", one.Source, one.Requests, one.Opaque.Parameters.Raw))
	}
	if want := "FromClass [] class, FromClaim [] [], FromClaim [s/good] [s/good], FromClaim [] [r s]"; strings.Join(config, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(config, ", "), want)
	}
	if sel := got.NodeSelector; sel == nil || len(sel.NodeSelectorTerms) != 1 || len(sel.NodeSelectorTerms[0].MatchFields) != 1 || len(sel.NodeSelectorTerms[0].MatchExpressions) != 1 {
		t.Errorf("node selector %v", sel)
	}
	v.Promise(c.UID, got)
	last := claimOf("last", exactly("r", nil))
	v.SetClaim(last)
	if a, err = v.Prepare([]*resourcev1.ResourceClaim{last}); err != nil {
		t.Fatal(err)
	}
	if sel := a.Allocate(plainNode("a"))[0].NodeSelector; sel == nil || len(sel.NodeSelectorTerms[0].MatchExpressions) != 0 || sel.NodeSelectorTerms[0].MatchFields[0].Values[0] != "a" {
		t.Errorf("node selector of a device that binds to its node %v", sel)
	}
}

// TestCapacity: a device is shared until one of its capacities is used up.
func TestCapacity(t *testing.T) {
	q := func(text string) *resource.Quantity { out := resource.MustParse(text); return &out }
	want := func(amount string) resourcev1.DeviceRequest {
		return exactly("r", func(e *resourcev1.ExactDeviceRequest) {
			if amount != "" {
				e.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"memory": *q(amount)}}
			}
		})
	}
	for _, tt := range []struct {
		name   string
		policy *resourcev1.CapacityRequestPolicy
		asked  []string
		got    string // what each consumes
	}{
		{"as asked", nil, []string{"4Gi", "6Gi", "1"}, "4Gi 6Gi none"},
		{"all, by default", nil, []string{"", "1"}, "10Gi none"},
		{"too much", nil, []string{"11Gi"}, "none"},
		{"a default", &resourcev1.CapacityRequestPolicy{Default: q("3Gi")}, []string{"", "", "", ""}, "3Gi 3Gi 3Gi none"},
		{"values", &resourcev1.CapacityRequestPolicy{Default: q("1Gi"), ValidValues: []resource.Quantity{*q("1Gi"), *q("4Gi")}}, []string{"2Gi", "1Gi", "5Gi", "4Gi", "2Gi"}, "4Gi 1Gi none 4Gi none"},
		{"a range", &resourcev1.CapacityRequestPolicy{Default: q("2Gi"), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: q("2Gi"), Max: q("6Gi"), Step: q("2Gi")}}, []string{"1", "3Gi", "7Gi", "4Gi"}, "2Gi 4Gi none 4Gi"},
		{"a range without steps", &resourcev1.CapacityRequestPolicy{Default: q("2Gi"), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: q("2Gi")}}, []string{"3Gi", "1"}, "3Gi 2Gi"},
		{"parts", &resourcev1.CapacityRequestPolicy{Default: q("1"), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: q("500m"), Step: q("250m")}}, []string{"600m"}, "750m"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			yes := true
			v := toys(published("s", func(s *resourcev1.ResourceSliceSpec) {
				s.Devices[0].AllowMultipleAllocations = &yes
				s.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: *q("10Gi"), RequestPolicy: tt.policy}}
			}, "x"))
			var got []string
			shares := map[types.UID]bool{}
			for i, amount := range tt.asked {
				c := claimOf(fmt.Sprint("c", i), want(amount))
				v.SetClaim(c)
				a, err := v.Prepare([]*resourcev1.ResourceClaim{c})
				if err != nil {
					t.Fatal(err)
				}
				out := a.Allocate(plainNode("a"))
				if out == nil {
					got = append(got, "none")
					continue
				}
				r := out[0].Devices.Results[0]
				consumed := r.ConsumedCapacity["memory"]
				got = append(got, consumed.String())
				if shares[*r.ShareID] {
					t.Error("two shares of one name")
				}
				shares[*r.ShareID] = true
				v.Promise(c.UID, out[0])
			}
			if strings.Join(got, " ") != tt.got {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), tt.got)
			}
		})
	}
	// A device that isn't shared must have as much as is asked for, and goes as a whole.
	v := toys(published("s", func(s *resourcev1.ResourceSliceSpec) {
		s.Devices[1].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: *q("4Gi")}}
	}, "x", "y"))
	if got := v.outcome("a", claimOf("c", want("5Gi"))); got != "none" {
		t.Error(got)
	}
	if got := v.outcome("a", claimOf("d", want("1Gi"))); got != "r=y" {
		t.Error(got)
	}
	if got := v.outcome("a", claimOf("e", want("1Gi"))); got != "none" {
		t.Error(got)
	}
}

// TestManyAlike: a choice that can't work is not tried once for each of many devices that are the same.
func TestManyAlike(t *testing.T) {
	v := New(numbered())
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}})
	s := published("s", nil)
	for i := range 64 {
		id, side := int64(i), int64(i%2)
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("d", i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"id": {IntValue: &id}, "side": {IntValue: &side}}})
	}
	v.SetSlice(s)
	name := resourcev1.FullyQualifiedName(driver + "/side")
	c := claimOf("c", exactly("r", func(e *resourcev1.ExactDeviceRequest) { e.Count = 16 }), exactly("s", func(e *resourcev1.ExactDeviceRequest) {
		e.Count = 16
		where(`device.attributes["toys.example.com"].side == 0`)(e)
	}), exactly("t", where(`device.attributes["toys.example.com"].side == 1`)))
	c.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: &name}}
	c.Spec.Devices.Requests[0].Exactly.Count, c.Spec.Devices.Requests[1].Exactly.Count = 15, 16
	v.SetClaim(c)
	a, err := v.Prepare([]*resourcev1.ResourceClaim{c})
	if err != nil {
		t.Fatal(err)
	}
	if a.Fits(plainNode("a")) || a.Problem() != "" {
		t.Errorf("fits, or given up: %s", a.Problem())
	}
	if a.steps > 1<<15 {
		t.Errorf("%d steps", a.steps)
	}
}
