package admission

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api/quota"
)

// LimitedResource is something that nobody may use without a quota that allows it.
type LimitedResource struct {
	APIGroup string `json:"apiGroup"`
	Resource string `json:"resource"`
	// MatchContains are parts of the names of what is limited: "cpu" is in "requests.cpu" and in "limits.cpu".
	MatchContains []string `json:"matchContains"`
	// MatchScopes limit the objects of these scopes, whatever they use.
	MatchScopes []corev1.ScopedResourceSelectorRequirement `json:"matchScopes"`
}

// quotaVersions are the versions of the configuration; they have one shape, and the kind has two names.
var quotaVersions = []string{"apiserver.config.k8s.io/v1", "resourcequota.admission.k8s.io/v1", "resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"}

// readQuota reads a ResourceQuotaConfiguration, as YAML or JSON.
func readQuota(data []byte) ([]LimitedResource, error) {
	var file struct {
		APIVersion       string            `json:"apiVersion"`
		Kind             string            `json:"kind"`
		LimitedResources []LimitedResource `json:"limitedResources"`
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, err
	}
	if !slices.Contains(quotaVersions, file.APIVersion) || file.Kind != "ResourceQuotaConfiguration" && file.Kind != "Configuration" {
		return nil, fmt.Errorf("%q of %q is no ResourceQuotaConfiguration of %s", file.Kind, file.APIVersion, quotaVersions[0])
	}
	for i, l := range file.LimitedResources {
		if l.Resource == "" {
			return nil, fmt.Errorf("limitedResources[%d]: resource is empty", i)
		}
	}
	return file.LimitedResources, nil
}

// uncovered refuses an object that uses what is limited if no quota of its namespace that is about it says how much there is.
func (p *ResourceQuota) uncovered(gr schema.GroupResource, a *Attributes, usage corev1.ResourceList, quotas []*corev1.ResourceQuota) error {
	limited := map[corev1.ResourceName]bool{}
	var scopes []corev1.ScopedResourceSelectorRequirement
	for _, l := range p.limited {
		if l.APIGroup != gr.Group || l.Resource != gr.Resource {
			continue
		}
		for name := range usage {
			if slices.ContainsFunc(l.MatchContains, func(part string) bool { return strings.Contains(string(name), part) }) {
				limited[name] = true
			}
		}
		for _, r := range l.MatchScopes {
			if quota.MatchesScope(r, a.Object) {
				scopes = append(scopes, r)
			}
		}
	}
	if len(limited) == 0 && len(scopes) == 0 {
		return nil
	}
	for _, q := range quotas {
		about := about(gr, usage, q.Status.Hard)
		if !quota.Matches(q, a.Object) || len(about) == 0 {
			continue
		}
		for _, name := range about {
			delete(limited, name)
		}
		for _, r := range quota.Scopes(q) {
			scopes = slices.DeleteFunc(scopes, func(s corev1.ScopedResourceSelectorRequirement) bool { return s.ScopeName == r.ScopeName })
		}
	}
	if len(limited) > 0 {
		names := make([]corev1.ResourceName, 0, len(limited))
		for name := range limited {
			names = append(names, name)
		}
		slices.Sort(names)
		return forbid(a, errors.New("insufficient quota to consume: "+joined(names)))
	}
	if len(scopes) > 0 {
		return forbid(a, fmt.Errorf("insufficient quota to match these scopes: %v", scopes))
	}
	return nil
}
