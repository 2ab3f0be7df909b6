package policystatus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/openapi"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
)

// mostTypes is how many kinds one rule of a policy is checked against at most.
const mostTypes = 10

// subject is a kind that a policy is about.
type subject struct {
	gvk schema.GroupVersionKind
	typ *apiservercel.DeclType
}

// check returns what is wrong with the types in a policy's validations.
func check(ctx context.Context, s *admissionregistrationv1.ValidatingAdmissionPolicySpec, schemas *schemas) ([]admissionregistrationv1.ExpressionWarning, error) {
	subjects, err := subjectsOf(ctx, s.MatchConstraints, schemas)
	if err != nil {
		return nil, err
	}
	var params *apiservercel.DeclType
	if s.ParamKind != nil {
		if gv, err := schema.ParseGroupVersion(s.ParamKind.APIVersion); err == nil {
			if params, err = typeOf(ctx, gv.WithKind(s.ParamKind.Kind), "params", schemas); err != nil && !errors.Is(err, errUnknown) {
				return nil, err
			}
		}
	}
	var warnings []admissionregistrationv1.ExpressionWarning
	look := func(text string, at *field.Path) {
		var found []string
		for _, sub := range subjects {
			if issue := checkOne(text, s, sub, params); issue != "" {
				found = append(found, fmt.Sprintf("%v: %s\n", sub.gvk, issue))
			}
		}
		if len(found) > 0 {
			warnings = append(warnings, admissionregistrationv1.ExpressionWarning{FieldRef: at.String(), Warning: strings.Join(found, "\n")})
		}
	}
	for i := range s.Validations {
		at := field.NewPath("spec", "validations").Index(i)
		look(s.Validations[i].Expression, at.Child("expression"))
		if text := s.Validations[i].MessageExpression; text != "" {
			look(text, at.Child("messageExpression"))
		}
	}
	return warnings, nil
}

// checkOne compiles an expression with the variables before it for one kind, and returns what the compiler says.
func checkOne(text string, s *admissionregistrationv1.ValidatingAdmissionPolicySpec, sub subject, params *apiservercel.DeclType) string {
	c := expression.Checker(expression.Types{Object: sub.typ, Params: params})
	sees := expression.Sees{Params: s.ParamKind != nil, Authorizer: true}
	for i := range s.Variables {
		c.Variable(s.Variables[i].Name, s.Variables[i].Expression, sees, expression.Stored)
	}
	switch e := c.Compile(text, sees, expression.Stored); {
	case e.Err == nil:
		return ""
	case e.Err.Type == apiservercel.ErrorTypeInvalid:
		return e.Err.Error()
	default:
		return "type checking error: " + e.Err.Error()
	}
}

// subjectsOf finds the kinds that rules name. A rule with a wildcard is about too many to be checked.
func subjectsOf(ctx context.Context, m *admissionregistrationv1.MatchResources, schemas *schemas) ([]subject, error) {
	if m == nil {
		return nil, nil
	}
	seen := map[schema.GroupVersionKind]bool{}
	var kinds []schema.GroupVersionKind
	for i := range m.ResourceRules {
		of, err := kindsOf(ctx, &m.ResourceRules[i].Rule, schemas)
		if err != nil {
			return nil, err
		}
		for _, gvk := range of {
			if !seen[gvk] {
				seen[gvk] = true
				kinds = append(kinds, gvk)
			}
		}
		if len(of) >= mostTypes {
			break
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
	})
	var out []subject
	for _, gvk := range kinds {
		t, err := typeOf(ctx, gvk, gvk.Kind, schemas)
		if errors.Is(err, errUnknown) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, subject{gvk, t})
	}
	return out, nil
}

func kindsOf(ctx context.Context, r *admissionregistrationv1.Rule, schemas *schemas) ([]schema.GroupVersionKind, error) {
	wild := func(s string) bool { return strings.Contains(s, "*") }
	if slices.ContainsFunc(r.APIGroups, wild) || slices.ContainsFunc(r.APIVersions, wild) {
		return nil, nil
	}
	var out []schema.GroupVersionKind
	for _, group := range slices.Sorted(slices.Values(r.APIGroups)) {
		for _, version := range slices.Sorted(slices.Values(r.APIVersions)) {
			for _, resource := range slices.Sorted(slices.Values(r.Resources)) {
				if strings.ContainsAny(resource, "*/") {
					continue
				}
				gvk, err := schemas.kind(ctx, schema.GroupVersionResource{Group: group, Version: version, Resource: resource})
				if errors.Is(err, errUnknown) {
					continue
				}
				if err != nil {
					return nil, err
				}
				if out = append(out, gvk); len(out) == mostTypes {
					return out, nil
				}
			}
		}
	}
	return out, nil
}

// typeOf is the CEL type of a kind, called by a name of its own: two kinds may be called alike.
func typeOf(ctx context.Context, gvk schema.GroupVersionKind, name string, schemas *schemas) (*apiservercel.DeclType, error) {
	s, err := schemas.schema(ctx, gvk)
	if err != nil {
		return nil, err
	}
	t := common.SchemaDeclType(&openapi.Schema{Schema: s}, true)
	if t == nil {
		return nil, nil
	}
	return t.MaybeAssignTypeName("celox." + name), nil
}
