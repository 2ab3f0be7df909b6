package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/quota"
)

const limiting = `- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - {resource: persistentvolumeclaims, matchContains: [gold.storageclass.storage.k8s.io/requests.storage]}
    - {resource: pods, matchContains: [cpu], matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}
`

// TestLimitedResources: what is limited needs a quota that says how much there is.
func TestLimitedResources(t *testing.T) {
	f := setup(t)
	c, err := configuration(t, head+limiting)
	if err != nil {
		t.Fatal(err)
	}
	charger, _ := f.Collection(schema.GroupResource{Resource: "resourcequotas"})
	f.chain = Chain{NewResourceQuota(f.Objects, charger, c.LimitedResources)}
	needy := func(name string) *corev1.Pod {
		return pod(name, needs(amounts("cpu", "1"), amounts("cpu", "1")))
	}
	high := func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }
	const noCPU = `pods "a" is forbidden: insufficient quota to consume: cpu,limits.cpu,requests.cpu`
	expect(t, "no quota", f.create(t, needy("a")), noCPU)
	expect(t, "what isn't limited", f.create(t, pod("b")), "")
	expect(t, "another kind", f.create(t, &corev1.ConfigMap{ObjectMeta: meta("a", "c")}), "")
	f.Put(quotaOf("pods", amounts("pods", "5"), amounts("pods", "0")))
	expect(t, "a quota of something else", f.create(t, needy("a")), noCPU)
	f.Put(quotaOf("cpu", amounts("cpu", "5", "limits.cpu", "5", "requests.cpu", "5"), amounts("cpu", "0", "limits.cpu", "0", "requests.cpu", "0")))
	expect(t, "a quota", f.create(t, needy("a")), "")
	urgent := pod("d", high, needs(amounts("cpu", "1"), amounts("cpu", "1")))
	expect(t, "a scope without a quota", f.create(t, urgent), `pods "d" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [high]}]`)
	scoped := quotaOf("high", amounts("pods", "1"), amounts("pods", "0"))
	in := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}
	scoped.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{in}}
	f.Put(scoped)
	expect(t, "a scope with one", f.create(t, urgent), "")
	if !quota.MatchesScope(in, urgent) || quota.MatchesScope(in, pod("e")) || quota.MatchesScope(in, &corev1.ConfigMap{}) {
		t.Error("the scope of a priority class")
	}
}
