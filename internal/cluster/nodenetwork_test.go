package cluster

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A node whose object is gone asks for the ranges of its pods again, unless they have become another's or the cluster has others.
func TestWantedRanges(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	add := func(name string, ranges ...string) {
		if err := nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: ranges}}); err != nil {
			t.Fatal(err)
		}
	}
	n := &nodeNetwork{node: "me", cluster: prefixList("10.42.0.0/16", "fd42::/56"), nodes: corelisters.NewNodeLister(nodes)}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := n.wanted(); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	expect("none yet")
	n.ranges = prefixList("10.42.1.0/24", "fd42:0:0:1::/64")
	expect("alone", "10.42.1.0/24", "fd42:0:0:1::/64")
	add("me", "10.42.1.0/24")
	add("other", "10.42.2.0/24", "fd42:0:0:2::/64")
	expect("with another", "10.42.1.0/24", "fd42:0:0:1::/64")
	n.ranges = prefixList("10.42.1.0/24")
	expect("a family is missing")
	n.ranges = prefixList("10.99.1.0/24", "fd42:0:0:1::/64")
	expect("of an earlier cluster")
	n.ranges = prefixList("10.42.0.0/15", "fd42:0:0:1::/64")
	expect("larger than the cluster's")
	n.ranges = prefixList("10.42.3.0/24", "fd42:0:0:2::/64")
	expect("one is another's")
	n.external = true
	n.ranges = prefixList("10.42.1.0/24", "fd42:0:0:1::/64")
	expect("with plugins")
	if got := (*nodeNetwork)(nil).wanted(); got != nil {
		t.Errorf("without a network: %v", got)
	}
}
