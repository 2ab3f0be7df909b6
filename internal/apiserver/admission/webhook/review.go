package webhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/input"
	"github.com/celox/celox/internal/apiserver/negotiate"
)

// The versions of the question that we can ask.
const (
	reviewV1      = "v1"
	reviewV1Beta1 = "v1beta1"
)

var errNoReview = errors.New("webhook does not accept known AdmissionReview versions (v1, v1beta1)")

// encoded are the JSON forms of both objects of a write as one kind; nil is null.
type encoded struct{ object, old []byte }

// encode makes the JSON forms.
func encode(a *admission.Attributes, kind schema.GroupVersionKind) (encoded, error) {
	obj, old, err := input.Show(a, kind)
	if err != nil {
		return encoded{}, err
	}
	var e encoded
	if obj != nil {
		if e.object, err = json.Marshal(obj); err != nil {
			return e, fmt.Errorf("encoding the object: %w", err)
		}
	}
	if old != nil {
		if e.old, err = json.Marshal(old); err != nil {
			return e, fmt.Errorf("encoding the old object: %w", err)
		}
	}
	return e, nil
}

// question makes the body of a call in the first version that h and we know.
func (h *hook) question(a *admission.Attributes, d admission.Door, e encoded) (uid types.UID, version string, body []byte, err error) {
	for _, v := range h.reviews {
		if v == reviewV1 || v == reviewV1Beta1 {
			version = v
			break
		}
	}
	if version == "" {
		return "", "", nil, errNoReview
	}
	r := input.Request(a, d)
	r.UID = types.UID(uuid.NewString())
	r.Object, r.OldObject = runtime.RawExtension{Raw: e.object}, runtime.RawExtension{Raw: e.old}
	// Both versions have the same form.
	body, err = json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{Kind: "AdmissionReview", APIVersion: schema.GroupVersion{Group: admissionv1.GroupName, Version: version}.String()}, Request: r,
	})
	return r.UID, version, body, err
}

// answer is what a webhook decided.
type answer struct {
	allowed   bool
	status    *metav1.Status
	patch     []byte
	patchType admissionv1.PatchType
	notes     map[string]string
	warnings  []string
}

// unreadable is an answer that is no review of the version that was asked in.
type unreadable struct{ error }

// decodeReview reads an answer to a question in a version. One that doesn't say what it is, is taken for what was wanted.
func decodeReview(data []byte, version string, into runtime.Object) error {
	var says struct {
		APIVersion string `json:"apiVersion,omitempty"`
		Kind       string `json:"kind,omitempty"`
	}
	if err := json.Unmarshal(data, &says); err != nil {
		return &unreadable{fmt.Errorf("couldn't get version/kind; json parse error: %w", err)}
	}
	gv, err := schema.ParseGroupVersion(says.APIVersion)
	if err != nil {
		return &unreadable{err}
	}
	const kind = "AdmissionReview"
	want := schema.GroupVersion{Group: admissionv1.GroupName, Version: version}
	if gv.Empty() {
		gv = want
	}
	switch known := gv == admissionv1.SchemeGroupVersion || gv == admissionv1beta1.SchemeGroupVersion; {
	case !known || says.Kind != "" && says.Kind != kind:
		return &unreadable{runtime.NewNotRegisteredErrForKind(negotiate.SchemeName, gv.WithKind(cmp.Or(says.Kind, kind)))}
	case gv != want:
		return &unreadable{fmt.Errorf("converting (%s.%s) to (%s.%[2]s): unknown conversion", gv.Version, kind, version)}
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, into); err != nil {
		return &unreadable{err}
	}
	return nil
}

// readAnswer checks an answer to a question.
func readAnswer(data []byte, uid types.UID, version string, mutating bool) (*answer, error) {
	if version == reviewV1Beta1 {
		return readV1beta1(data, mutating)
	}
	var r admissionv1.AdmissionReview
	if err := decodeReview(data, version, &r); err != nil {
		return nil, err
	}
	if r.Response == nil {
		return nil, errors.New("webhook response was absent")
	}
	if r.Response.UID != uid {
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.Response.UID)
	}
	if want, got := admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"), r.GroupVersionKind(); got != want {
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want, got)
	}
	out := &answer{allowed: r.Response.Allowed, status: r.Response.Result, patch: r.Response.Patch, notes: r.Response.AuditAnnotations, warnings: r.Response.Warnings}
	t := r.Response.PatchType
	switch {
	case !mutating && len(out.patch) > 0:
		return nil, errors.New("validating webhook may not return response.patch")
	case !mutating && t != nil:
		return nil, errors.New("validating webhook may not return response.patchType")
	case len(out.patch) > 0 && t == nil:
		return nil, errors.New("webhook returned response.patch but not response.patchType")
	case len(out.patch) == 0 && t != nil:
		return nil, errors.New("webhook returned response.patchType but not response.patch")
	case t != nil && *t == "":
		return nil, fmt.Errorf("webhook returned invalid response.patchType of %q", *t)
	case t != nil:
		out.patchType = *t
	}
	return out, nil
}

// readV1beta1 is less strict, as the version of old was: neither kind nor uid were looked at, and there was one type of patch.
func readV1beta1(data []byte, mutating bool) (*answer, error) {
	var r admissionv1beta1.AdmissionReview
	if err := decodeReview(data, reviewV1Beta1, &r); err != nil {
		return nil, err
	}
	if r.Response == nil {
		return nil, errors.New("webhook response was absent")
	}
	out := &answer{allowed: r.Response.Allowed, status: r.Response.Result, notes: r.Response.AuditAnnotations, warnings: r.Response.Warnings}
	if mutating && len(r.Response.Patch) > 0 {
		out.patch, out.patchType = r.Response.Patch, admissionv1.PatchTypeJSONPatch
	}
	return out, nil
}
