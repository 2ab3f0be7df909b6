package custom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/apiserver/webhook"
)

// webhookConverter asks a webhook (ConversionReview of apiextensions.k8s.io/v1 or v1beta1).
type webhookConverter struct {
	def        *Definition
	conversion *apiextensionsv1.CustomResourceConversion
	client     *webhook.Client
}

func (c *webhookConverter) target() webhook.Target {
	var t webhook.Target
	cc := c.conversion.Webhook.ClientConfig
	t.CABundle = cc.CABundle
	if len(bytes.TrimSpace(t.CABundle)) == 0 {
		t.CABundle = nil
	}
	if cc.URL != nil {
		t.URL = *cc.URL
	}
	if s := cc.Service; s != nil {
		t.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			t.Service.Path = *s.Path
		}
		if s.Port != nil {
			t.Service.Port = *s.Port
		}
	}
	return t
}

// reviewVersion is the first version of ConversionReview that both sides know.
func (c *webhookConverter) reviewVersion() (string, error) {
	for _, v := range c.conversion.Webhook.ConversionReviewVersions {
		if v == "v1" || v == "v1beta1" {
			return v, nil
		}
	}
	return "", errors.New("no supported conversion review versions")
}

// Convert implements Converter. One call converts everything.
func (c *webhookConverter) Convert(ctx context.Context, in []*Object, to *Version) ([]*Object, error) {
	if c.client == nil || c.conversion.Webhook == nil || c.conversion.Webhook.ClientConfig == nil {
		return nil, errors.New("no webhook to convert with")
	}
	version, err := c.reviewVersion()
	if err != nil {
		return nil, err
	}
	from := in[0].GroupVersionKind()
	failed := func(err error) error { return fmt.Errorf("conversion webhook for %v failed: %w", from, err) }
	desired := to.gvk.GroupVersion().String()
	review := apiextensionsv1.ConversionReview{
		TypeMeta: metav1.TypeMeta{Kind: "ConversionReview", APIVersion: "apiextensions.k8s.io/" + version},
		Request:  &apiextensionsv1.ConversionRequest{UID: types.UID(uuid.NewString()), DesiredAPIVersion: desired},
	}
	for _, o := range in {
		raw, err := o.AppendJSON(nil)
		if err != nil {
			return nil, err
		}
		review.Request.Objects = append(review.Request.Objects, runtime.RawExtension{Raw: raw})
	}
	body, err := json.Marshal(&review)
	if err != nil {
		return nil, err
	}
	caller, err := c.client.For(c.target())
	if err != nil {
		return nil, err
	}
	// The call is not told how much time the request has left (upstream does not), but ends with it.
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	data, err := caller.Post(call, body)
	if err != nil {
		return nil, failed(err)
	}
	converted, err := answer(data, version, review.Request.UID)
	if err != nil {
		return nil, failed(err)
	}
	if len(converted) != len(in) {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", from, len(converted), len(in))
	}
	out := make([]*Object, len(in))
	for i := range converted {
		if out[i], err = accept(in[i], converted[i].Raw, to); err == nil {
			continue
		}
		which, where := "object", "metadata"
		if len(in) > 1 {
			which, where = fmt.Sprintf("converted object at index %d", i), fmt.Sprintf("metadata in object at index %d", i)
		}
		if errors.As(err, new(*badMeta)) {
			which = where
		}
		return nil, fmt.Errorf("conversion webhook for %v returned invalid %s: %w", from, which, err)
	}
	return out, nil
}

// badMeta says that what a webhook may change of metadata, labels and annotations, is invalid.
type badMeta struct{ error }

// answer reads the webhook's review and makes sure that it answers ours.
func answer(data []byte, version string, uid types.UID) ([]runtime.RawExtension, error) {
	var review apiextensionsv1.ConversionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &review); err != nil {
		return nil, err
	}
	r := review.Response
	if version == "v1" {
		if got := review.GroupVersionKind(); got != apiextensionsv1.SchemeGroupVersion.WithKind("ConversionReview") {
			return nil, fmt.Errorf("expected webhook response of %v, got %v", apiextensionsv1.SchemeGroupVersion.WithKind("ConversionReview"), got)
		}
	}
	switch {
	case r == nil:
		return nil, errors.New("no response provided")
	case version == "v1" && r.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	case r.Result.Status != metav1.StatusSuccess && r.Result.Message != "":
		return nil, errors.New(r.Result.Message)
	case r.Result.Status != metav1.StatusSuccess:
		return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Result.Status)
	}
	return r.ConvertedObjects, nil
}

// accept checks one converted object. Of its metadata only labels and annotations may differ from the original's.
func accept(in *Object, raw []byte, to *Version) (*Object, error) {
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("no object")
	}
	_, hasMeta := m["metadata"]
	meta, isMap := m["metadata"].(map[string]any)
	if hasMeta && !isMap {
		return nil, fmt.Errorf("invalid metadata of type %T in converted object", m["metadata"])
	}
	out, err := fromContent(m, true)
	if err != nil {
		return nil, err
	}
	if got := out.GroupVersionKind().GroupVersion(); got != to.gvk.GroupVersion() {
		return nil, fmt.Errorf("invalid groupVersion (expected %v, received %v)", to.gvk.GroupVersion(), got)
	}
	if out.Kind != in.Kind {
		return nil, fmt.Errorf("invalid kind (expected %v, received %v)", in.Kind, out.Kind)
	}
	for _, f := range []struct{ name, want, got string }{
		{"name", in.Name, out.Name}, {"namespace", in.Namespace, out.Namespace}, {"UID", string(in.UID), string(out.UID)},
	} {
		if f.want != f.got {
			return nil, fmt.Errorf("must have the same %s: %v != %v", f.name, f.want, f.got)
		}
	}
	if !hasMeta {
		return nil, errors.New("missing metadata in converted object")
	}
	for _, name := range [...]string{"labels", "annotations"} {
		if err := checkStrings(meta, name); err != nil {
			return nil, err
		}
	}
	labels, annotations := out.Labels, out.Annotations
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Labels, out.Annotations = labels, annotations
	var errs field.ErrorList
	if !sameStrings(labels, in.Labels) {
		errs = metavalidation.ValidateLabels(labels, field.NewPath("metadata", "labels"))
	}
	if len(errs) == 0 && !sameStrings(annotations, in.Annotations) {
		errs = apivalidation.ValidateAnnotations(annotations, field.NewPath("metadata", "annotation"))
	}
	if len(errs) > 0 {
		return nil, &badMeta{errs.ToAggregate()}
	}
	return out, nil
}

func checkStrings(meta map[string]any, name string) error {
	value, there := meta[name]
	if !there || value == nil {
		return nil
	}
	m, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
	}
	for k, v := range m {
		if _, ok := v.(string); !ok {
			return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
	}
	return nil
}

func sameStrings(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
