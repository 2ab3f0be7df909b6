package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// allows says what the kernel does with what a Desired tells it.
func (d *Desired) allows(client, server netip.Addr, protocol uint8, port uint16) bool {
	restricted := d.Pods[client] != Restriction{}
	if client == server && restricted {
		return true
	}
	return d.passes(d.Pods[client][Egress], server, server, protocol, port) && d.passes(d.Pods[server][Ingress], client, server, protocol, port)
}

func (d *Desired) passes(chain string, peer, server netip.Addr, protocol uint8, port uint16) bool {
	if chain == "" || chain == closed {
		return chain == ""
	}
	c := d.Chains[chain]
	match := func(r Rule) bool {
		if r.Protocol != 0 && (protocol != r.Protocol || (r.First != 0 || r.Last != anyPort) && (port < r.First || port > r.Last)) {
			return false
		}
		if r.Standing { // and this is a new connection
			return false
		}
		if r.Set == "" {
			return true
		}
		for e := range d.Sets[r.Set].Elements {
			switch d.Sets[r.Set].Kind {
			case Pods:
				if e.Addr == peer {
					return true
				}
			case Ports:
				if e.Addr == server && e.Protocol == protocol && e.Port == port {
					return true
				}
			case Networks:
				if e.Addr.BitLen() == peer.BitLen() && !peer.Less(e.Addr) && !e.Last.Less(peer) {
					return true
				}
			}
		}
		return false
	}
	for _, r := range c.Admin {
		if match(r) {
			if r.Verdict == Pass {
				break
			}
			return r.Verdict == Allow
		}
	}
	for _, r := range c.Rest {
		if match(r) {
			return r.Verdict != Deny
		}
	}
	return !c.Isolated
}

// world is a cluster as the API has it, and what the node knows of its own pods.
type world struct {
	namespaces map[string]map[string]string
	pods       map[name]*corev1.Pod
	local      map[name]*corev1.Pod // with a sandbox, as they were last
	policies   map[name]*networkingv1.NetworkPolicy
	cluster    map[string]*ClusterNetworkPolicy
	resolved   map[string]resolved
}

var (
	worldNames = []string{"a", "b", "c"}
	worldPods  = []string{"1", "2", "3", "4"}
	outside    = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.130"), netip.MustParseAddr("2001:db8::1")}
)

// addrsOf are those of a pod, which only it ever has.
func addrsOf(n name) []netip.Addr {
	i := slices.Index(worldNames, n.namespace)*len(worldPods) + slices.Index(worldPods, n.name) + 1
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd42::%d", i))}
}

func drawLabels(t *rapid.T) map[string]string {
	return rapid.MapOf(rapid.SampledFrom([]string{"x", "y"}), rapid.SampledFrom([]string{"1", "2"})).Draw(t, "labels")
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch rapid.IntRange(0, 3).Draw(t, "selector") {
	case 1:
		s.MatchLabels = drawLabels(t)
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "x", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"1"}}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "y", Operator: metav1.LabelSelectorOpExists}}
	}
	return s
}

func drawPod(t *rapid.T, n name) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: n.namespace, Name: n.name, Labels: drawLabels(t)}}
	if rapid.IntRange(0, 4).Draw(t, "addresses") > 0 {
		for _, a := range addrsOf(n) {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a.String()})
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "phase") == 0 {
		p.Status.Phase = corev1.PodSucceeded
	}
	c := corev1.Container{Name: "c"}
	for _, port := range []string{"web", "dns"} {
		if number := rapid.SampledFrom([]int32{0, 80, 53}).Draw(t, port); number != 0 {
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: port, ContainerPort: number, Protocol: rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP"}).Draw(t, "protocol")})
		}
	}
	p.Spec.Containers = []corev1.Container{c}
	return p
}

func drawPeers(t *rapid.T) (out []networkingv1.NetworkPolicyPeer) {
	for range rapid.IntRange(0, 2).Draw(t, "peers") {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 4).Draw(t, "peer") {
		case 0:
			p.PodSelector = drawSelector(t)
		case 1:
			p.NamespaceSelector = drawSelector(t)
		case 2:
			p.PodSelector, p.NamespaceSelector = drawSelector(t), drawSelector(t)
		case 3:
			p.IPBlock = &networkingv1.IPBlock{CIDR: rapid.SampledFrom([]string{"0.0.0.0/0", "192.0.2.0/24", "10.42.0.0/29"}).Draw(t, "block")}
			p.IPBlock.Except = rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.128/25", "10.42.0.4/31", "192.0.2.0/32", "10.42.0.0/30"}), 0, 2).Draw(t, "except")
		case 4:
			p.IPBlock = &networkingv1.IPBlock{CIDR: rapid.SampledFrom([]string{"::/0", "2001:db8::/32", "fd42::/126"}).Draw(t, "block6")}
		}
		out = append(out, p)
	}
	return out
}

func drawPorts(t *rapid.T) (out []networkingv1.NetworkPolicyPort) {
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		var p networkingv1.NetworkPolicyPort
		if protocol := rapid.SampledFrom([]corev1.Protocol{"", "TCP", "UDP", "SCTP"}).Draw(t, "protocol"); protocol != "" {
			p.Protocol = &protocol
		}
		switch rapid.IntRange(0, 3).Draw(t, "port") {
		case 1:
			v := intstr.FromString(rapid.SampledFrom([]string{"web", "dns"}).Draw(t, "name"))
			p.Port = &v
		case 2:
			v := intstr.FromInt32(rapid.SampledFrom([]int32{53, 80}).Draw(t, "number"))
			p.Port = &v
		case 3:
			v, end := intstr.FromInt32(53), rapid.SampledFrom([]int32{53, 79, 80}).Draw(t, "end")
			p.Port, p.EndPort = &v, &end
		}
		out = append(out, p)
	}
	return out
}

func drawPolicy(t *rapid.T, n name) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: n.namespace, Name: n.name}}
	p.Spec.PodSelector = *drawSelector(t)
	p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(t, "types")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPeers(t), Ports: drawPorts(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPeers(t), Ports: drawPorts(t)})
	}
	return p
}

func drawClusterPeers(t *rapid.T, d Direction) (out []ClusterPeer) {
	for range rapid.IntRange(1, 2).Draw(t, "peers") {
		var p ClusterPeer
		switch rapid.IntRange(0, 1+2*int(d)).Draw(t, "peer") {
		case 0:
			p.Namespaces = drawSelector(t)
		case 1:
			p.Pods = &NamespacedPods{NamespaceSelector: *drawSelector(t), PodSelector: *drawSelector(t)}
		case 2:
			p.Networks = rapid.SampledFrom([][]string{{"0.0.0.0/0", "::/0"}, {"192.0.2.0/24"}, {"10.42.0.0/29", "fd42::/126"}}).Draw(t, "networks")
		case 3:
			p.Nodes = drawSelector(t)
		}
		out = append(out, p)
	}
	return out
}

func drawProtocols(t *rapid.T) (out []ClusterProtocol) {
	for range rapid.IntRange(0, 2).Draw(t, "protocols") {
		ports := &ClusterPorts{}
		text := rapid.SampledFrom([]string{`{}`, `{"destinationPort":{"number":80}}`, `{"destinationPort":{"range":{"start":53,"end":79}}}`}).Draw(t, "destination")
		if err := json.Unmarshal([]byte(text), ports); err != nil {
			t.Fatal(err)
		}
		out = append(out, rapid.SampledFrom([]ClusterProtocol{{TCP: ports}, {UDP: ports}, {SCTP: ports}, {DestinationNamedPort: "web"}}).Draw(t, "protocol"))
	}
	return out
}

func drawClusterPolicy(t *rapid.T, n string) *ClusterNetworkPolicy {
	p := &ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: n}}
	p.Spec.Tier, p.Spec.Priority = rapid.SampledFrom([]string{"Admin", "Baseline"}).Draw(t, "tier"), rapid.Int32Range(0, 2).Draw(t, "priority")
	if p.Spec.Subject.Namespaces = drawSelector(t); rapid.Bool().Draw(t, "pods") {
		p.Spec.Subject = ClusterPeer{Pods: &NamespacedPods{NamespaceSelector: *drawSelector(t), PodSelector: *drawSelector(t)}}
	}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		r := ClusterRule{Action: rapid.SampledFrom([]string{"Accept", "Deny", "Pass"}).Draw(t, "action"), Protocols: drawProtocols(t)}
		if rapid.Bool().Draw(t, "egress") {
			r.To = drawClusterPeers(t, Egress)
			if r.Action == "Accept" && rapid.Bool().Draw(t, "named") {
				r.To = append(r.To, ClusterPeer{DomainNames: rapid.SampledFrom([][]string{{"x.example"}, {"*.X.Example."}, {"a.x.example", "*.a.x.example"}}).Draw(t, "domains")})
			}
			p.Spec.Egress = append(p.Spec.Egress, r)
		} else {
			r.From = drawClusterPeers(t, Ingress)
			p.Spec.Ingress = append(p.Spec.Ingress, r)
		}
	}
	return p
}

// The test: any history leads to what the last state alone leads to, and that means what the policies say.

type history struct {
	w *world
	s *state
	// placed is what a datapath has that only ever looks at what is dirty.
	placed *Desired
}

func (h *history) step(t *rapid.T) {
	n := name{rapid.SampledFrom(worldNames).Draw(t, "namespace"), rapid.SampledFrom(worldPods).Draw(t, "name")}
	switch rapid.IntRange(0, 13).Draw(t, "step") {
	case 12, 13:
		domain := rapid.SampledFrom([]string{"example", "x.example", "a.x.example", "b.a.x.example"}).Draw(t, "domain")
		some := rapid.SliceOfNDistinct(rapid.SampledFrom(outside), 0, 2, rapid.ID)
		r := resolved{has: some.Draw(t, "has"), had: some.Draw(t, "had")}
		h.w.resolved[domain] = r
		h.s.setName(domain, r)
	case 10:
		p := drawClusterPolicy(t, n.name)
		h.w.cluster[n.name] = p
		parsed, err := parseCluster(p, true)
		if err != nil {
			t.Fatal(err)
		}
		h.s.setClusterPolicy(n.name, parsed)
	case 11:
		delete(h.w.cluster, n.name)
		h.s.setClusterPolicy(n.name, nil)
	case 0:
		if h.w.namespaces[n.namespace] = drawLabels(t); rapid.IntRange(0, 9).Draw(t, "gone") == 0 {
			delete(h.w.namespaces, n.namespace)
		}
		l, there := h.w.namespaces[n.namespace]
		h.s.setNamespace(n.namespace, there, l)
	case 1, 2, 3:
		p := drawPod(t, n)
		h.w.pods[n] = p
		if told := podOf(p); told != nil && h.w.local[n] != nil {
			h.w.local[n] = p
		}
		h.s.setPod(n, podOf(p))
	case 4:
		delete(h.w.pods, n)
		h.s.setPod(n, nil)
	case 5:
		if p := h.w.pods[n]; p != nil && p.Status.Phase != corev1.PodSucceeded {
			h.w.local[n] = p
			h.s.attach(n.namespace+n.name, n, addrsOf(n))
		}
	case 6:
		delete(h.w.local, n)
		h.s.detach(n.namespace + n.name)
	case 7, 8:
		p := drawPolicy(t, n)
		h.w.policies[n] = p
		parsed, err := parse(p)
		if err != nil {
			t.Fatal(err)
		}
		h.s.setPolicy(n, parsed)
	case 9:
		delete(h.w.policies, n)
		h.s.setPolicy(n, nil)
	}
}

// follow takes over what is dirty, as a datapath does.
func (h *history) follow(d *Dirty) {
	want := h.s.desired
	for n, elements := range d.Sets {
		set := want.Sets[n]
		if set == nil {
			delete(h.placed.Sets, n)
			continue
		}
		has := h.placed.Sets[n]
		if has == nil {
			has = &Set{Kind: set.Kind, Elements: maps.Clone(set.Elements)}
			h.placed.Sets[n] = has
		}
		for e := range elements {
			if _, there := set.Elements[e]; there {
				has.Elements[e] = 1
			} else {
				delete(has.Elements, e)
			}
		}
	}
	for n := range d.Chains {
		if h.placed.Chains[n] = want.Chains[n]; want.Chains[n] == nil {
			delete(h.placed.Chains, n)
		}
	}
	for a := range d.Pods {
		if h.placed.Pods[a] = want.Pods[a]; want.Pods[a] == (Restriction{}) {
			delete(h.placed.Pods, a)
		}
	}
	for _, set := range h.placed.Sets {
		for e := range set.Elements {
			set.Elements[e] = 1 // how often does not matter to a datapath
		}
	}
}

func plain(d *Desired) *Desired {
	out := &Desired{Sets: map[string]*Set{}, Chains: d.Chains, Pods: d.Pods}
	for n, s := range d.Sets {
		c := &Set{Kind: s.Kind, Elements: map[Element]int{}}
		for e := range s.Elements {
			c.Elements[e] = 1
		}
		out.Sets[n] = c
	}
	return out
}

// fresh compiles what there is at once.
func (w *world) fresh(t *rapid.T) *Desired {
	s := newState()
	s.setPod(name{nodes, "n"}, node)
	for n, p := range w.policies {
		parsed, err := parse(p)
		if err != nil {
			t.Fatal(err)
		}
		s.setPolicy(n, parsed)
	}
	for n, p := range w.cluster {
		parsed, err := parseCluster(p, true)
		if err != nil {
			t.Fatal(err)
		}
		s.setClusterPolicy(n, parsed)
	}
	for n, p := range w.local {
		s.attach(n.namespace+n.name, n, addrsOf(n))
		s.setPod(n, podOf(p))
	}
	for _, ns := range worldNames {
		for _, p := range worldPods {
			if n := (name{ns, p}); w.pods[n] != nil {
				s.setPod(n, podOf(w.pods[n]))
			} else {
				s.setPod(n, nil)
			}
		}
	}
	for n, l := range w.namespaces {
		s.setNamespace(n, true, l)
	}
	for n, r := range w.resolved {
		s.setName(n, r)
	}
	s.settle()
	return s.desired
}

func TestCompile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			namespaces: map[string]map[string]string{}, pods: map[name]*corev1.Pod{}, local: map[name]*corev1.Pod{},
			policies: map[name]*networkingv1.NetworkPolicy{}, cluster: map[string]*ClusterNetworkPolicy{}, resolved: map[string]resolved{},
		}
		h := &history{w: w, s: newState(), placed: newDesired()}
		h.s.setPod(name{nodes, "n"}, node)
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				h.step(t)
			}
			h.follow(h.s.settle())
			if want := plain(w.fresh(t)); !reflect.DeepEqual(plain(h.s.desired), want) {
				t.Fatalf("by its history: %+v\nat once: %+v", plain(h.s.desired), want)
			}
			if !reflect.DeepEqual(h.placed, plain(h.s.desired)) {
				t.Fatalf("not all that changed was said: %+v, want %+v", h.placed, plain(h.s.desired))
			}
			w.check(t, h.s.desired)
		}
	})
}

func (w *world) check(t *rapid.T, d *Desired) {
	all := slices.Clone(outside)
	for _, ns := range worldNames {
		for _, p := range worldPods {
			all = append(all, addrsOf(name{ns, p})...)
		}
	}
	for range 40 {
		client, server := rapid.SampledFrom(all).Draw(t, "client"), rapid.SampledFrom(all).Draw(t, "server")
		if client.BitLen() != server.BitLen() {
			continue
		}
		protocol, port := rapid.SampledFrom([]uint8{1, 6, 17, 132}).Draw(t, "protocol"), rapid.SampledFrom([]uint16{53, 79, 80, 81}).Draw(t, "port")
		if got, want := d.allows(client, server, protocol, port), w.allowed(client, server, protocol, port); got != want {
			t.Fatalf("%v → %v, protocol %d, port %d: allowed is %v, want %v\n%+v", client, server, protocol, port, got, want, d)
		}
	}
}

// TestTidy leaves nothing behind when everything is gone.
func TestTidy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			namespaces: map[string]map[string]string{}, pods: map[name]*corev1.Pod{}, local: map[name]*corev1.Pod{},
			policies: map[name]*networkingv1.NetworkPolicy{}, cluster: map[string]*ClusterNetworkPolicy{}, resolved: map[string]resolved{},
		}
		h := &history{w: w, s: newState(), placed: newDesired()}
		h.s.setPod(name{nodes, "n"}, node)
		for range 30 {
			h.step(t)
		}
		h.s.settle()
		for _, ns := range worldNames {
			for _, p := range worldPods {
				h.s.setPolicy(name{ns, p}, nil)
				h.s.setPod(name{ns, p}, nil)
				h.s.detach(ns + p)
			}
			h.s.setNamespace(ns, false, nil)
		}
		for n := range w.cluster {
			h.s.setClusterPolicy(n, nil)
		}
		for n := range w.resolved {
			h.s.setName(n, resolved{})
		}
		h.s.setPod(name{nodes, "n"}, nil)
		h.s.settle()
		d := h.s.desired
		if len(h.s.namespaces)+len(h.s.named)+len(h.s.resolved)+len(h.s.sets)+len(h.s.chains)+len(h.s.anywhere)+len(h.s.sandboxes)+len(h.s.owners)+len(d.Sets)+len(d.Chains)+len(d.Pods) > 0 {
			t.Fatalf("left: %+v", h.s)
		}
	})
}

// checkBlock compares what a block comes to with what it says, for an address.
func checkBlock(t *testing.T, cidr, except, address string) {
	t.Helper()
	got, err := block(cidr, []string{except})
	whole, err1 := netip.ParsePrefix(cidr)
	hole, err2 := netip.ParsePrefix(except)
	a, err3 := netip.ParseAddr(address)
	if (err == nil) != (err1 == nil && err2 == nil) {
		t.Fatalf("%s without %s: %v", cidr, except, err)
	}
	if err != nil || err3 != nil || a.Zone() != "" || a.Is4In6() || whole.Addr().Is4In6() || hole.Addr().Is4In6() {
		return
	}
	in := slices.ContainsFunc(got, func(e Element) bool { return e.Addr.BitLen() == a.BitLen() && !a.Less(e.Addr) && !e.Last.Less(a) })
	if want := whole.Contains(a) && !hole.Contains(a); in != want {
		t.Errorf("%s in %s without %s: %v, want %v (%v)", a, cidr, except, in, want, got)
	}
}
