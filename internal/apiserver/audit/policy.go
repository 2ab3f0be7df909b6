package audit

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/request"
)

// maxPolicy bounds the size of a policy file, in bytes.
const maxPolicy = 4 << 20

// LoadPolicy reads a policy from a file of YAML or JSON.
func LoadPolicy(path string) (*v1.Policy, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	if info.Size() > maxPolicy {
		return nil, fmt.Errorf("audit policy %s has more than %d bytes", path, maxPolicy)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	p, err := ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("audit policy %s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads a policy and checks it.
func ParsePolicy(data []byte) (*v1.Policy, error) {
	p := &v1.Policy{}
	if err := yaml.UnmarshalStrict(data, p); err != nil {
		return nil, err
	}
	if p.APIVersion != v1.SchemeGroupVersion.String() || p.Kind != "Policy" {
		return nil, fmt.Errorf("%s %s is no audit policy: apiVersion must be %s, kind Policy", p.APIVersion, p.Kind, v1.SchemeGroupVersion)
	}
	if len(p.Rules) == 0 {
		return nil, errors.New("a policy without rules audits nothing: give it at least one")
	}
	return p, validate(p).ToAggregate()
}

func validate(p *v1.Policy) field.ErrorList {
	errs := validateStages(p.OmitStages, field.NewPath("omitStages"))
	for i := range p.Rules {
		r, at := &p.Rules[i], field.NewPath("rules").Index(i)
		switch r.Level {
		case v1.LevelNone, v1.LevelMetadata, v1.LevelRequest, v1.LevelRequestResponse:
		case "":
			errs = append(errs, field.Required(at.Child("level"), ""))
		default:
			errs = append(errs, field.NotSupported(at.Child("level"), r.Level, []v1.Level{v1.LevelNone, v1.LevelMetadata, v1.LevelRequest, v1.LevelRequestResponse}))
		}
		errs = append(errs, validateStages(r.OmitStages, at.Child("omitStages"))...)
		if len(r.NonResourceURLs) > 0 && (len(r.Resources) > 0 || len(r.Namespaces) > 0) {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		for j, u := range r.NonResourceURLs {
			here := at.Child("nonResourceURLs").Index(j)
			if u == every {
				continue
			}
			if !strings.HasPrefix(u, "/") {
				errs = append(errs, field.Invalid(here, u, `non-resource URL rules must begin with a '/' character`))
			}
			if strings.Contains(strings.TrimSuffix(u, every), every) {
				errs = append(errs, field.Invalid(here, u, "non-resource URL wildcards '*' must be the final character of the rule"))
			}
		}
		for j := range r.Resources {
			gr, here := &r.Resources[j], at.Child("resources").Index(j)
			if len(gr.ResourceNames) > 0 && len(gr.Resources) == 0 {
				errs = append(errs, field.Invalid(here.Child("resourceNames"), gr.ResourceNames, "using resourceNames requires at least one resource"))
			}
		}
	}
	return errs
}

func validateStages(stages []v1.Stage, at *field.Path) field.ErrorList {
	known := []v1.Stage{v1.StageRequestReceived, v1.StageResponseStarted, v1.StageResponseComplete, v1.StagePanic}
	var errs field.ErrorList
	for i, s := range stages {
		if !slices.Contains(known, s) {
			errs = append(errs, field.NotSupported(at.Index(i), s, known))
		}
	}
	return errs
}

// verdict is what the policy says of a request.
type verdict struct {
	level             v1.Level
	omit              []v1.Stage
	omitManagedFields bool
}

// judge finds the first rule that matches.
func judge(p *v1.Policy, u user.Info, i *request.Info) verdict {
	for n := range p.Rules {
		r := &p.Rules[n]
		if !matches(r, u, i) {
			continue
		}
		v := verdict{level: r.Level, omit: p.OmitStages, omitManagedFields: p.OmitManagedFields}
		if len(r.OmitStages) > 0 {
			v.omit = slices.Concat(p.OmitStages, r.OmitStages)
		}
		if r.OmitManagedFields != nil {
			v.omitManagedFields = *r.OmitManagedFields
		}
		return v
	}
	return verdict{level: v1.LevelNone}
}

// every stands for all values of a list.
const every = "*"

func matches(r *v1.PolicyRule, u user.Info, i *request.Info) bool {
	name, groups := "", []string(nil)
	if u != nil {
		name, groups = u.GetName(), u.GetGroups()
	}
	switch {
	case len(r.Users) > 0 && !slices.Contains(r.Users, name):
		return false
	case len(r.UserGroups) > 0 && !slices.ContainsFunc(r.UserGroups, func(g string) bool { return slices.Contains(groups, g) }):
		return false
	case len(r.Verbs) > 0 && !slices.Contains(r.Verbs, i.Verb):
		return false
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return i.IsResource && matchesResource(r, i)
	case len(r.NonResourceURLs) > 0:
		return !i.IsResource && slices.ContainsFunc(r.NonResourceURLs, func(u string) bool {
			if head, ok := strings.CutSuffix(u, every); ok {
				return strings.HasPrefix(i.Path, head)
			}
			return u == i.Path
		})
	}
	return true
}

func matchesResource(r *v1.PolicyRule, i *request.Info) bool {
	if len(r.Namespaces) > 0 && !slices.Contains(r.Namespaces, i.Namespace) {
		return false
	}
	if len(r.Resources) == 0 {
		return true
	}
	whole := i.Resource
	if i.Subresource != "" {
		whole += "/" + i.Subresource
	}
	for n := range r.Resources {
		gr := &r.Resources[n]
		if gr.Group != i.Group && gr.Group != every {
			continue
		}
		if len(gr.Resources) == 0 {
			return true
		}
		if len(gr.ResourceNames) > 0 && !slices.Contains(gr.ResourceNames, i.Name) {
			continue
		}
		for _, res := range gr.Resources {
			if res == whole {
				return true
			}
			if i.Subresource == "" {
				if res == every {
					return true
				}
				continue
			}
			// "*" is every resource with every part, "*/scale" the part of every one, "pods/*" all parts of pods.
			if res == every || res == "*/"+i.Subresource || res == i.Resource+"/*" {
				return true
			}
		}
	}
	return false
}
