package resourceclaim

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	// podClaimAnnotation holds the name that a pod gives to a claim made for it.
	podClaimAnnotation = "resource.kubernetes.io/pod-claim-name"
	// maxPrefix leaves room for a hyphen and five random characters in a name of 63, in bytes.
	maxPrefix = 57
)

// done says that a pod will not run any more, or never will.
func done(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

// nameOf returns the name of the claim behind an entry of a pod. Named says that it is known; one that is known and empty needs no claim.
func nameOf(p *corev1.Pod, pc *corev1.PodResourceClaim) (name string, named bool) {
	if pc.ResourceClaimName != nil {
		return *pc.ResourceClaimName, true
	}
	for i := range p.Status.ResourceClaimStatuses {
		if s := &p.Status.ResourceClaimStatuses[i]; s.Name == pc.Name {
			return ptr.Deref(s.ResourceClaimName, ""), true
		}
	}
	return "", false
}

// namesOf are the claims of a pod as far as they are known, also the one that the scheduler made for its extended resources.
func namesOf(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.ResourceClaims {
		if n, _ := nameOf(p, &p.Spec.ResourceClaims[i]); n != "" {
			out = append(out, n)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		out = append(out, s.ResourceClaimName)
	}
	return out
}

// claimFor is the claim that a template makes for an entry of a pod.
func claimFor(p *corev1.Pod, pc *corev1.PodResourceClaim, t *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := maps.Clone(t.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[podClaimAnnotation] = pc.Name
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, GenerateName: prefix(p.Name, pc.Name), Labels: t.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: ptr.To(true),
			}},
		},
		Spec: *t.Spec.Spec.DeepCopy(),
	}
}

// prefix is how the names of claims made for an entry of a pod begin. Of what is too long each part loses its share, and the hyphen at the end.
func prefix(pod, entry string) string {
	whole := pod + "-" + entry + "-"
	if len(whole) <= maxPrefix {
		return whole
	}
	cut := func(part string) string { return part[:max(1, len(part)*maxPrefix/len(whole))] }
	return strings.TrimRight(cut(pod), "-.") + "-" + cut(entry)
}

// reservedBy says that a claim is reserved for a pod.
func reservedBy(c *resourcev1.ResourceClaim, p *corev1.Pod) bool {
	return slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
}

// podPlan is what to do about a pod.
type podPlan struct {
	// create are the entries that need a claim made.
	create []*corev1.PodResourceClaim
	// found are claims that were made for entries whose status does not say so yet, by entry.
	found map[string]string
	// reserve are claims to reserve for the pod, which has a node although no scheduler reserved them.
	reserve []*resourcev1.ResourceClaim
}

// decidePod says what to do about a pod; claim finds a claim of its namespace (nil: there is none), and owned are those that belong to it.
func decidePod(p *corev1.Pod, claim func(name string) *resourcev1.ResourceClaim, owned []*resourcev1.ResourceClaim) podPlan {
	plan := podPlan{found: map[string]string{}}
	if p.DeletionTimestamp != nil || done(p) {
		return plan
	}
	for i := range p.Spec.ResourceClaims {
		pc := &p.Spec.ResourceClaims[i]
		name, named := nameOf(p, pc)
		if named && name == "" {
			continue
		}
		var have *resourcev1.ResourceClaim
		if named {
			have = claim(name)
		}
		if have != nil && pc.ResourceClaimName == nil && !metav1.IsControlledBy(have, p) {
			have = nil // somebody else's; the pod gets another
		}
		if have == nil && pc.ResourceClaimTemplateName != nil {
			for _, o := range owned {
				if o.Annotations[podClaimAnnotation] == pc.Name && o.DeletionTimestamp == nil {
					have = o
					plan.found[pc.Name] = o.Name
				}
			}
			if have == nil {
				plan.create = append(plan.create, pc)
			}
		}
		if have != nil && p.Spec.NodeName != "" && have.Status.Allocation != nil && have.DeletionTimestamp == nil && !reservedBy(have, p) &&
			len(have.Status.ReservedFor) < resourcev1.ResourceClaimReservedForMaxSize {
			plan.reserve = append(plan.reserve, have)
		}
	}
	return plan
}

// claimPlan is what to do about a claim, in this order.
type claimPlan struct {
	// reservedFor, if shrink, is what remains of the reservations.
	shrink      bool
	reservedFor []resourcev1.ResourceClaimConsumerReference
	// deallocate gives the devices back.
	deallocate bool
	// unprotect removes the finalizer that keeps an allocated claim.
	unprotect bool
	// remove deletes the claim: it was made for a pod that does not need it.
	remove bool
}

// decideClaim says what to do about a claim; pod finds the pod of its namespace with a name (nil: there is none).
func decideClaim(c *resourcev1.ResourceClaim, pod func(name string) *corev1.Pod) claimPlan {
	var p claimPlan
	for _, r := range c.Status.ReservedFor {
		keep := true
		if r.APIGroup == "" && r.Resource == "pods" {
			user := pod(r.Name)
			keep = user != nil && user.UID == r.UID && !done(user)
		}
		if keep {
			p.reservedFor = append(p.reservedFor, r)
		}
	}
	p.shrink = len(p.reservedFor) < len(c.Status.ReservedFor)
	if len(p.reservedFor) > 0 {
		return p
	}
	// A finalizer without an allocation may be of a scheduler that is about to write that.
	if slices.Contains(c.Finalizers, resourcev1.Finalizer) && (p.shrink || c.DeletionTimestamp != nil) {
		p.deallocate, p.unprotect = c.Status.Allocation != nil, true
	}
	if owner := metav1.GetControllerOfNoCopy(c); owner != nil && owner.Kind == "Pod" && owner.APIVersion == "v1" && c.DeletionTimestamp == nil {
		user := pod(owner.Name)
		p.remove = user == nil || user.UID != owner.UID || done(user)
	}
	return p
}
