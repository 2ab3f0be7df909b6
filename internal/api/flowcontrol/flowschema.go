package flowcontrol

import (
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Bounds of matchingPrecedence; 1 is for the schema "exempt" alone.
const (
	defaultPrecedence int32 = 1000
	maxPrecedence     int32 = 10000
)

func flowSchema() *api.Kind {
	spec := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:            "flowcontrol.apiserver.k8s.io",
		Kind:             "FlowSchema",
		Resource:         "flowschemas",
		Singular:         "flowschema",
		Prefix:           "flowschemas",
		Versions:         []api.Version{api.NewVersion[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList]("v1")},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		Resets:           map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		HasGeneration:    true,
		PrepareForCreate: api.On(func(s *flowcontrolv1.FlowSchema) { s.Status = flowcontrolv1.FlowSchemaStatus{} }),
		PrepareForUpdate: api.OnUpdate(func(s, old *flowcontrolv1.FlowSchema) { s.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(s, old *flowcontrolv1.FlowSchema) {
			s.Spec = old.Spec
			keepMeta(&s.ObjectMeta, &old.ObjectMeta)
		}),
		Default: api.On(func(s *flowcontrolv1.FlowSchema) {
			if s.Spec.MatchingPrecedence == 0 {
				s.Spec.MatchingPrecedence = defaultPrecedence
			}
		}),
		Validate:                 api.Check(validateSchema),
		ValidateUpdate:           api.CheckUpdate(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchema(s) }),
		ValidateStatusUpdate:     api.CheckUpdate(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchemaStatus(s) }),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("PriorityLevel", table.String, flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			table.Column("MatchingPrecedence", table.String, spec["matchingPrecedence"]),
			table.Column("DistinguisherMethod", table.String, spec["distinguisherMethod"]),
			table.AgeColumn(),
			table.Column("MissingPL", table.String, "references a broken or non-existent PriorityLevelConfiguration"),
		),
		Row: api.Row(func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
			method, missing := table.None, "?"
			if d := s.Spec.DistinguisherMethod; d != nil {
				method = string(d.Type)
			}
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					missing = string(c.Status)
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, table.Age(s, now), missing}
		}),
	}
}

func validateSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	p, spec := field.NewPath("spec"), &s.Spec
	var errs field.ErrorList
	precedence := p.Child("matchingPrecedence")
	switch n := spec.MatchingPrecedence; {
	case n <= 0:
		errs = append(errs, field.Invalid(precedence, n, "must be a positive value"))
	case n > maxPrecedence:
		errs = append(errs, field.Invalid(precedence, n, "must not be greater than 10000"))
	case n == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if d := spec.DistinguisherMethod; d != nil && d.Type != flowcontrolv1.FlowDistinguisherMethodByNamespaceType && d.Type != flowcontrolv1.FlowDistinguisherMethodByUserType {
		errs = append(errs, field.NotSupported(p.Child("distinguisherMethod", "type"), check.Rendered(*d), []flowcontrolv1.FlowDistinguisherMethodType{
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType,
		}))
	}
	level := p.Child("priorityLevelConfiguration", "name")
	if name := spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, check.DNSSubdomain(name, level)...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateRule(&spec.Rules[i], p.Child("rules").Index(i))...)
	}
	if fixed, ok := mandatorySchema(s.Name); ok && !apiequality.Semantic.DeepEqual(*spec, fixed) {
		errs = append(errs, field.Invalid(p, check.Rendered(*spec), "spec of '"+s.Name+"' must equal the fixed value"))
	}
	return errs
}

func validateSchemaStatus(s *flowcontrolv1.FlowSchema) field.ErrorList {
	types := make([]flowcontrolv1.FlowSchemaConditionType, len(s.Status.Conditions))
	for i := range types {
		types[i] = s.Status.Conditions[i].Type
	}
	return validateConditions(types)
}

// validateConditions wants each type of condition to have a name, and to be there once.
func validateConditions[T ~string](types []T) field.ErrorList {
	var errs field.ErrorList
	for i, t := range types {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		if slices.Contains(types[:i], t) {
			errs = append(errs, field.Duplicate(at, t))
		}
		if t == "" {
			errs = append(errs, check.Missing(at)...)
		}
	}
	return errs
}

// MandatorySchemas returns the schemas that a server assumes even where they are not stored, made afresh.
func MandatorySchemas() []*flowcontrolv1.FlowSchema {
	var out []*flowcontrolv1.FlowSchema
	for _, name := range []string{flowcontrolv1.FlowSchemaNameExempt, flowcontrolv1.FlowSchemaNameCatchAll} {
		if spec, ok := mandatorySchema(name); ok {
			out = append(out, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
		}
	}
	return out
}

// mandatorySchema returns the one spec that the schemas "exempt" and "catch-all" may have: without them the server could lock
// its administrators out, or not know what to do with a request.
func mandatorySchema(name string) (flowcontrolv1.FlowSchemaSpec, bool) {
	everything := flowcontrolv1.PolicyRulesWithSubjects{
		ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
			Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true,
		}},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
	}
	group := func(name string) flowcontrolv1.Subject {
		return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
	}
	switch name {
	case flowcontrolv1.FlowSchemaNameExempt:
		everything.Subjects = []flowcontrolv1.Subject{group("system:masters")}
		return flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: flowcontrolv1.PriorityLevelConfigurationNameExempt},
			MatchingPrecedence:         1,
			Rules:                      []flowcontrolv1.PolicyRulesWithSubjects{everything},
		}, true
	case flowcontrolv1.FlowSchemaNameCatchAll:
		everything.Subjects = []flowcontrolv1.Subject{group("system:unauthenticated"), group("system:authenticated")}
		return flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: flowcontrolv1.PriorityLevelConfigurationNameCatchAll},
			MatchingPrecedence:         maxPrecedence,
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules:                      []flowcontrolv1.PolicyRulesWithSubjects{everything},
		}, true
	}
	return flowcontrolv1.FlowSchemaSpec{}, false
}

// keepMeta puts an object's metadata back as the status door does in this group: all of it but what tells who wrote which field.
func keepMeta(m, old *metav1.ObjectMeta) {
	fields := m.ManagedFields
	old.DeepCopyInto(m)
	m.ManagedFields = fields
}
