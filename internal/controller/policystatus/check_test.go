package policystatus

import (
	"encoding/json"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const document = `{
 "apps.Deployment": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Deployment"}], "properties": {
   "spec": {"allOf": [{"$ref": "#/components/schemas/apps.Spec"}], "description": "what is wanted"}}},
 "apps.Spec": {"type": "object", "properties": {
   "replicas": {"type": "integer", "format": "int32"}, "names": {"type": "array", "items": {"type": "string"}},
   "labels": {"type": "object", "additionalProperties": {"type": "string"}}, "again": {"$ref": "#/components/schemas/apps.Spec"}}}
}`

func known(t *testing.T) *schemas {
	t.Helper()
	all := map[string]*spec.Schema{}
	if err := json.Unmarshal([]byte(document), &all); err != nil {
		t.Fatal(err)
	}
	gv := schema.GroupVersion{Group: "apps", Version: "v1"}
	return &schemas{
		documents: map[schema.GroupVersion]map[string]*spec.Schema{gv: all},
		resources: map[schema.GroupVersion]map[string]string{gv: {"deployments": "Deployment", "others": "Other"}},
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name, expression, message, variable string
		resources                           []string
		where, want                         string // "" is no warning
	}{
		{name: "right", expression: "object.spec.replicas > 1 && object.spec.labels['a'] == 'b' && oldObject == null && request.name == 'a'"},
		{name: "no such field", expression: "object.spec.replicants > 1", where: "spec.validations[0].expression", want: "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicants'\n"},
		{name: "another type", expression: "object.spec.replicas > '1'", where: "spec.validations[0].expression", want: "found no matching overload for '_>_' applied to '(int, string)'"},
		{name: "a message", expression: "true", message: "object.nothing", where: "spec.validations[0].messageExpression", want: "undefined field 'nothing'"},
		{name: "a variable", expression: "variables.v > 'a'", variable: "object.spec.replicas", where: "spec.validations[0].expression", want: "no matching overload"},
		{name: "within itself", expression: "object.spec.again.anything == 1", where: "spec.validations[0].expression", want: "undefined field 'anything'"},
		{name: "kinds without a schema", resources: []string{"others", "unknown", "*", "deployments/scale"}, expression: "object.anything"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.resources == nil {
				tt.resources = []string{"deployments"}
			}
			s := &admissionregistrationv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Rule: admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: tt.resources}}}}},
				Validations: []admissionregistrationv1.Validation{{Expression: tt.expression, MessageExpression: tt.message}},
			}
			if tt.variable != "" {
				s.Variables = []admissionregistrationv1.Variable{{Name: "v", Expression: tt.variable}}
			}
			got, err := check(t.Context(), s, known(t))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("got %+v", got)
			case tt.want != "" && (len(got) != 1 || got[0].FieldRef != tt.where || !strings.Contains(got[0].Warning, tt.want)):
				t.Errorf("got %+v", got)
			}
		})
	}
}
