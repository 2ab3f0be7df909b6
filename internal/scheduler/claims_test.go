package scheduler

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func claiming(claim string) podOption {
	return func(p *v1.Pod) {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, v1.PodResourceClaim{Name: "d", ResourceClaimName: &claim})
	}
}

func allocatedOn(node string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}}
	if node != "" {
		c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{named(node)}}}
	}
	return c
}

// madeAs says that the pod's claim was made from its template.
func madeAs(claim string) podOption {
	return func(p *v1.Pod) {
		p.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "d", ResourceClaimName: &claim}}
	}
}

func ownedBy(p *v1.Pod, c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, v1.SchemeGroupVersion.WithKind("Pod"))}
	return c
}

func TestResourceClaims(t *testing.T) {
	two := func(claims ...*resourcev1.ResourceClaim) *Snapshot {
		s := snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"))
		for _, c := range claims {
			s.SetResourceClaim(c)
		}
		return s
	}
	template := "t"
	fromTemplate := func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "d", ResourceClaimTemplateName: &template}}
	}
	name := "c"
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"no claim", two(), newPod("p", claiming("c")), `0/2 nodes are available: resourceclaim "c" not found.` + unresolved(2)},
		{"not made yet", two(), newPod("p", fromTemplate), `0/2 nodes are available: pod "default/p": ResourceClaim not created yet.` + unresolved(2)},
		{"made for another", two(allocatedOn("b")), newPod("p", fromTemplate, madeAs(name)), "0/2 nodes are available: ResourceClaim default/c was not created for Pod default/p (Pod is not owner)." + unresolved(2)},
		{"made", two(ownedBy(newPod("p"), allocatedOn("b"))), newPod("p", fromTemplate, madeAs(name)), "b"},
		{"none needed", two(), newPod("p", fromTemplate, selecting(v1.LabelHostname, "a"), func(p *v1.Pod) {
			p.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "d"}}
		}), "a"},
		{"nothing wanted", two(allocatedOn("")), newPod("p", claiming("c"), selecting(v1.LabelHostname, "a")), "a"},
		{"allocated", two(allocatedOn("b")), newPod("p", claiming("c")), "b"},
		{"allocated elsewhere", two(allocatedOn("z")), newPod("p", claiming("c")), "0/2 nodes are available: 2 resourceclaim not available on the node." + unresolved(2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.outcome(tt.pod); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestResourceClaimIsWaitedFor(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", claiming("c")))
		b.pass(time.Minute)
		b.on("", "p")
		if _, err := b.client.ResourceV1().ResourceClaims("default").Create(b.Context(), allocatedOn("a"), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.pass(time.Second)
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"))
}
