package resourceclaim

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func podWith(entries ...corev1.PodResourceClaim) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{ResourceClaims: entries}}
}

func byTemplate(name string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: name, ResourceClaimTemplateName: ptr.To("t")}
}

func ownedBy(name, entry string) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "ns", Annotations: map[string]string{podClaimAnnotation: entry},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u", Controller: ptr.To(true)}},
	}}
}

func TestDecidePod(t *testing.T) {
	made := ownedBy("p-gpu-x", "gpu")
	ready := ownedBy("p-gpu-y", "gpu")
	ready.Status.Allocation = &resourcev1.AllocationResult{}
	foreign := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: "ns"}, Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}}}
	status := func(name *string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: name}}
		}
	}
	tests := []struct {
		name   string
		pod    *corev1.Pod
		change func(*corev1.Pod)
		owned  []*resourcev1.ResourceClaim
		want   string
	}{
		{"made", podWith(byTemplate("gpu")), nil, nil, "create gpu"},
		{"made and not told", podWith(byTemplate("gpu")), nil, []*resourcev1.ResourceClaim{made}, "found gpu=p-gpu-x"},
		{"made for another entry", podWith(byTemplate("nic")), nil, []*resourcev1.ResourceClaim{made}, "create nic"},
		{"told", podWith(byTemplate("gpu")), status(ptr.To("p-gpu-x")), []*resourcev1.ResourceClaim{made}, ""},
		{"told, and gone", podWith(byTemplate("gpu")), status(ptr.To("old")), nil, "create gpu"},
		{"needs none", podWith(byTemplate("gpu")), status(nil), nil, ""},
		{"told a foreign one", podWith(byTemplate("gpu")), status(ptr.To("foreign")), nil, "create gpu"},
		{"by name", podWith(corev1.PodResourceClaim{Name: "gpu", ResourceClaimName: ptr.To("foreign")}), nil, nil, ""},
		{"by name, on a node", podWith(corev1.PodResourceClaim{Name: "gpu", ResourceClaimName: ptr.To("foreign")}), func(p *corev1.Pod) { p.Spec.NodeName = "n" }, nil, "reserve foreign"},
		{"not allocated, on a node", podWith(byTemplate("gpu")), func(p *corev1.Pod) { p.Spec.NodeName = "n"; status(ptr.To("p-gpu-x"))(p) }, []*resourcev1.ResourceClaim{made}, ""},
		{"allocated, on a node", podWith(byTemplate("gpu")), func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []*resourcev1.ResourceClaim{ready}, "found gpu=p-gpu-y reserve p-gpu-y"},
		{"over", podWith(byTemplate("gpu")), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.pod)
			}
			plan := decidePod(tt.pod, func(name string) *resourcev1.ResourceClaim {
				for _, c := range append([]*resourcev1.ResourceClaim{foreign}, tt.owned...) {
					if c.Name == name {
						return c
					}
				}
				return nil
			}, tt.owned)
			var got []string
			for _, pc := range plan.create {
				got = append(got, "create "+pc.Name)
			}
			for entry, name := range plan.found {
				got = append(got, "found "+entry+"="+name)
			}
			for _, c := range plan.reserve {
				got = append(got, "reserve "+c.Name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestDecideClaim(t *testing.T) {
	now := metav1.Now()
	user := resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "p", UID: "u"}
	other := resourcev1.ResourceClaimConsumerReference{APIGroup: "x.example", Resource: "things", Name: "t", UID: "x"}
	claim := func(change func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{resourcev1.Finalizer}}, Status: resourcev1.ResourceClaimStatus{
			Allocation: &resourcev1.AllocationResult{}, ReservedFor: []resourcev1.ResourceClaimConsumerReference{user}}}
		if change != nil {
			change(c)
		}
		return c
	}
	running := podWith()
	over := podWith()
	over.Status.Phase = corev1.PodFailed
	namesake := podWith()
	namesake.UID = "u2"
	never := podWith()
	never.DeletionTimestamp = &now
	owned := func(c *resourcev1.ResourceClaim) { c.OwnerReferences = ownedBy("", "").OwnerReferences }
	tests := []struct {
		name  string
		claim *resourcev1.ResourceClaim
		pod   *corev1.Pod
		want  string
	}{
		{"in use", claim(nil), running, "keeps 1"},
		{"pod gone", claim(nil), nil, "shrink deallocate unprotect"},
		{"pod over", claim(nil), over, "shrink deallocate unprotect"},
		{"namesake", claim(nil), namesake, "shrink deallocate unprotect"},
		{"pod that never had a node", claim(nil), never, "shrink deallocate unprotect"},
		{"another user", claim(func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor = append(c.Status.ReservedFor, other) }), nil, "shrink keeps 1"},
		{"allocated, not reserved", claim(func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor = nil }), nil, ""},
		{"about to be allocated", claim(func(c *resourcev1.ResourceClaim) { c.Status = resourcev1.ResourceClaimStatus{} }), nil, ""},
		{"going", claim(func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor, c.DeletionTimestamp = nil, &now }), nil, "deallocate unprotect"},
		{"going, in use", claim(func(c *resourcev1.ResourceClaim) { c.DeletionTimestamp = &now }), running, "keeps 1"},
		{"not allocated by the scheduler", claim(func(c *resourcev1.ResourceClaim) { c.Finalizers = nil }), nil, "shrink"},
		{"made for a pod that is gone", claim(owned), nil, "shrink deallocate unprotect remove"},
		{"made for a pod that is over", claim(owned), over, "shrink deallocate unprotect remove"},
		{"made for a pod that waits", claim(func(c *resourcev1.ResourceClaim) { owned(c); c.Status = resourcev1.ResourceClaimStatus{} }), running, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := decideClaim(tt.claim, func(string) *corev1.Pod { return tt.pod })
			var got []string
			for _, f := range []struct {
				set  bool
				name string
			}{{p.shrink, "shrink"}, {p.deallocate, "deallocate"}, {p.unprotect, "unprotect"}, {p.remove, "remove"}, {len(p.reservedFor) > 0, fmt.Sprint("keeps ", len(p.reservedFor))}} {
				if f.set {
					got = append(got, f.name)
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestPrefix(t *testing.T) {
	for _, pod := range []string{"p", strings.Repeat("p", 63), strings.Repeat("p", 200)} {
		for _, entry := range []string{"c", strings.Repeat("c", 63)} {
			if got := prefix(pod, entry); len(got) > maxPrefix+1 || !strings.HasPrefix(got, "p") || !strings.Contains(got, "-c") {
				t.Errorf("%d and %d: %q", len(pod), len(entry), got)
			}
		}
	}
	if got := prefix("web-0", "gpu"); got != "web-0-gpu-" {
		t.Error(got)
	}
	// 60 + 1 + 10 + 1 is 72; of 57 the parts get 47 and 7.
	if got, want := prefix(strings.Repeat("p", 60), strings.Repeat("c", 10)), strings.Repeat("p", 47)+"-"+strings.Repeat("c", 7); got != want {
		t.Error(got)
	}
}
