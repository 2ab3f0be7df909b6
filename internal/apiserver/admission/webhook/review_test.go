package webhook

import (
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestDecodeReview: an answer of another kind or version is no answer; one that doesn't say what it is, is taken for one.
func TestDecodeReview(t *testing.T) {
	for data, want := range map[string]string{
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"allowed":true}}`: "",
		`{"response":{"allowed":true}}`: "",
		`null`:                          "",
		`{`:                             "couldn't get version/kind; json parse error: unexpected end of JSON input",
		`[]`:                            `couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"Other"}`:                `no kind "Other" is registered for version "admission.k8s.io/v1" in scheme "pkg/runtime/scheme.go:111"`,
		`{"apiVersion":"other/v1","kind":"AdmissionReview"}`:                 `no kind "AdmissionReview" is registered for version "other/v1" in scheme "pkg/runtime/scheme.go:111"`,
		`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}`: "converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion",
		`{"response":{"allowed":"yes"}}`:                                     "json: cannot unmarshal string into Go struct field AdmissionResponse.response.allowed of type bool",
	} {
		got := ""
		if err := decodeReview([]byte(data), reviewV1, &admissionv1.AdmissionReview{}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
	var old runtime.Object = &admissionv1beta1.AdmissionReview{}
	if err := decodeReview([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), reviewV1Beta1, old); err == nil || err.Error() != "converting (v1.AdmissionReview) to (v1beta1.AdmissionReview): unknown conversion" {
		t.Errorf("got %v", err)
	}
}
