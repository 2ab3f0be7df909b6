package apiserver

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
)

// TestAdmissionMetrics: what dashboards ask of upstream's API server about admission is there after requests that webhooks and policies
// have a say in.
func TestAdmissionMetrics(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	h := newHookServer(t, func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: q.Name != "bad"}
	})
	const maps = `{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`
	want(t, s, 201, "POST", registrations+"validatingwebhookconfigurations", h.config("ValidatingWebhookConfiguration", maps))
	broken := strings.NewReplacer(h.url, "https://127.0.0.1:1", "hook.example.com", "gone.example.com", `"sideEffects"`, `"failurePolicy":"Ignore","sideEffects"`)
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations", broken.Replace(h.config("MutatingWebhookConfiguration", maps)))
	want(t, s, 201, "POST", registrations+"validatingadmissionpolicies",
		`{"metadata":{"name":"p"},"spec":{"matchConstraints":{"resourceRules":[`+maps+`]},"validations":[{"expression":"object.metadata.name != 'worse'"}]}}`)
	want(t, s, 201, "POST", registrations+"validatingadmissionpolicybindings", `{"metadata":{"name":"b"},"spec":{"policyName":"p","validationActions":["Deny"]}}`)

	const all = "/api/v1/namespaces/a/configmaps"
	want(t, s, 201, "POST", all, `{"metadata":{"name":"good"}}`)
	want(t, s, 400, "POST", all, `{"metadata":{"name":"bad"}}`)
	want(t, s, 422, "POST", all, `{"metadata":{"name":"worse"}}`)

	text := call(t, s, "GET", "/metrics", "").Body.String()
	for _, line := range []string{
		`apiserver_admission_webhook_rejection_count{error_type="no_error",name="hook.example.com",operation="CREATE",rejection_code="400",type="validating"} 1`,
		`apiserver_admission_webhook_request_total{code="200",name="hook.example.com",operation="CREATE",rejected="false",type="validating"} 1`,
		`apiserver_admission_webhook_request_total{code="503",name="gone.example.com",operation="CREATE",rejected="false",type="admit"} 3`,
		`apiserver_admission_webhook_fail_open_count{name="gone.example.com",type="admit"} 3`,
		`apiserver_admission_webhook_admission_duration_seconds_count{name="hook.example.com",operation="CREATE",rejected="true",type="validating"} 1`,
		`apiserver_validating_admission_policy_check_total{enforcement_action="deny",error_type="invalid_error",policy="p",policy_binding="b"} 1`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="ValidatingAdmissionPolicy",operation="CREATE",rejected="true",type="validate"} 1`,
		`apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"} 2`,
		`apiserver_resource_objects{group="",resource="configmaps"} 1`,
		`apiserver_storage_objects{resource="validatingadmissionpolicies.admissionregistration.k8s.io"} 1`,
		`apiserver_request_sli_duration_seconds_count{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 3`,
	} {
		if !strings.Contains(text, line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no %s in\n%s", line, lines(text, name))
		}
	}
}

// lines are those of a text that begin with a word.
func lines(text, word string) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
