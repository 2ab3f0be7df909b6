package discovery_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/discovery"
)

func TestEndpointSlice(t *testing.T) {
	v4 := func(rest string) string { return "metadata: {name: a}\naddressType: IPv4\nendpoints: [{" + rest + "}]" }
	apitest.Check(t, discovery.Kinds(), "EndpointSlice", []apitest.Case{
		{"empty", "addressType: IPv4\nendpoints: []", ""},
		{"no type", "endpoints: []", "addressType: Required value"},
		{"unknown type", "addressType: IPv5\nendpoints: []", `addressType: Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"`},
		{"one", v4("addresses: [10.0.0.1], nodeName: n, hostname: h, conditions: {ready: true}, targetRef: {kind: Pod, name: p}"), ""},
		{"nowhere", v4("addresses: []"), "endpoints[0].addresses: Required value"},
		{"another family", v4("addresses: ['fd00::1']"), "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"},
		{"loopback", v4("addresses: [127.0.0.1]"), "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{"link-local", v4("addresses: [169.254.1.1]"), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{"unspecified", v4("addresses: [0.0.0.0]"), "may not be unspecified (0.0.0.0)"},
		{"no address", v4("addresses: [pod]"), "endpoints[0].addresses[0]: Invalid value: \"pod\""},
		{"names", "addressType: FQDN\nendpoints: [{addresses: [a.example]}]", ""},
		{"no host", v4("addresses: [10.0.0.1], hostname: A_B, nodeName: C_D"), "endpoints[0].nodeName: Invalid value\nendpoints[0].hostname: Invalid value"},
		{"hints twice", v4("addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: a}]}"), "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""},
		{"too many hints", v4("addresses: [10.0.0.1], hints: {forZones: [" + strings.Repeat("{name: a},", 9) + "], forNodes: [" + strings.Repeat("{name: a},", 9) + "]}"),
			"endpoints[0].hints.forZones: Too many: 9: must have at most 8 items"},
		{"ports twice", v4("addresses: [10.0.0.1]") + "\nports: [{port: 80}, {port: 81}]", "ports[1].name: Duplicate value: \"\""},
		{"port names", v4("addresses: [10.0.0.1]") + "\nports: [{name: A_B, protocol: ICMP}]", "ports[0].name: Invalid value\nports[0].protocol: Unsupported value"},
		{"too many", "addressType: IPv4\nendpoints: [" + strings.Repeat("{addresses: [10.0.0.1]},", 1001) + "]", "endpoints: Too many: 1001: must have at most 1000 items"},
	})
}

func TestDefaults(t *testing.T) {
	c := apitest.Catalogue(t, discovery.Kinds())
	k := apitest.Kind(t, c.Kinds(), "EndpointSlice")
	obj, _ := apitest.Create(t, c, k, "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], deprecatedTopology: {a: b}}]\nports: [{port: 80}]")
	s := obj.(*discoveryv1.EndpointSlice)
	if *s.Ports[0].Name != "" || *s.Ports[0].Protocol != "TCP" || s.Endpoints[0].DeprecatedTopology != nil {
		t.Errorf("defaults %+v", s)
	}
}

// TestGeneration: labels count, for they say which service a slice belongs to; annotations don't.
func TestGeneration(t *testing.T) {
	c := apitest.Catalogue(t, discovery.Kinds())
	k := apitest.Kind(t, c.Kinds(), "EndpointSlice")
	old := apitest.Read(t, c, k, "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]").(*discoveryv1.EndpointSlice)
	for _, x := range []struct {
		name   string
		change func(s *discoveryv1.EndpointSlice)
		want   bool
	}{
		{"nothing", func(*discoveryv1.EndpointSlice) {}, false},
		{"annotations", func(s *discoveryv1.EndpointSlice) { s.Annotations = map[string]string{"a": "b"} }, false},
		{"labels", func(s *discoveryv1.EndpointSlice) { s.Labels = map[string]string{"a": "b"} }, true},
		{"endpoints", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "10.0.0.2" }, true},
	} {
		s := old.DeepCopy()
		x.change(s)
		if got := k.GenerationChanged(s, old); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

// TestAddressesStay: what was accepted once stays acceptable; the type of addresses never changes.
func TestAddressesStay(t *testing.T) {
	c := apitest.Catalogue(t, discovery.Kinds())
	k := apitest.Kind(t, c.Kinds(), "EndpointSlice")
	old := apitest.Read(t, c, k, "metadata: {name: a}\naddressType: IPv4\nendpoints: [{addresses: [010.0.0.1]}]").(*discoveryv1.EndpointSlice)
	if got := apitest.Text(k.ValidateUpdate(old.DeepCopy(), old)); got != "" {
		t.Error(got)
	}
	s := old.DeepCopy()
	s.AddressType, s.Endpoints = "FQDN", nil
	if got := apitest.Text(k.ValidateUpdate(s, old)); got != `addressType: Invalid value: null: field is immutable` {
		t.Error(got)
	}
	s.AddressType = "x"
	errs := k.ValidateUpdate(s, old)
	if got := apitest.Text(errs); len(errs) != 2 || errs[0].IsBeta() || !errs[1].IsBeta() || !strings.HasPrefix(got, `addressType: Unsupported value: "x"`) {
		t.Errorf("an unknown type instead: %s", got)
	}
}

func TestRow(t *testing.T) {
	c := apitest.Catalogue(t, discovery.Kinds())
	k := apitest.Kind(t, c.Kinds(), "EndpointSlice")
	for _, x := range []struct{ doc, want string }{
		{"metadata: {name: a}\naddressType: IPv4\nendpoints: []", "a|IPv4|<unset>|<unset>|<unknown>"},
		{"metadata: {name: a}\naddressType: IPv4\nports: [{port: 80}, {name: b}]\nendpoints: [{addresses: [10.0.0.1, 10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]",
			"a|IPv4|80,b|10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...|<unknown>"},
	} {
		if got := apitest.Row(k, apitest.Read(t, c, k, x.doc), time.Now()); got != x.want {
			t.Errorf("shown as\n%s, want\n%s", got, x.want)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	var doc strings.Builder
	doc.WriteString("metadata: {name: a}\naddressType: IPv4\nports: [{port: 80}]\nendpoints:\n")
	for i := range 100 {
		fmt.Fprintf(&doc, "- {addresses: [10.0.0.%d]}\n", i+1)
	}
	c := apitest.Catalogue(b, discovery.Kinds())
	k := apitest.Kind(b, c.Kinds(), "EndpointSlice")
	s := apitest.Read(b, c, k, doc.String())
	b.ReportAllocs()
	for b.Loop() {
		if errs := k.Validate(s); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

// TestStoredEndpoints: endpoints that an older server took are checked again only when they change.
func TestStoredEndpoints(t *testing.T) {
	const bad, worse = "addressType: IPv4\nendpoints: [{addresses: []}]", "addressType: IPv4\nendpoints: [{addresses: []}, {addresses: []}]"
	apitest.CheckChanges(t, discovery.Kinds(), "EndpointSlice", "", []apitest.Change{
		{"as they were", bad, bad + "\nmetadata: {labels: {a: b}}", ""},
		{"changed", bad, worse, "endpoints[0].addresses: Required value\nendpoints[1].addresses: Required value"},
	})
}
