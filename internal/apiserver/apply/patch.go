package apply

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// maxOperations is how many operations a JSON patch may have.
const maxOperations = 10000

// Patch is a patch as it was sent.
type Patch struct {
	Type types.PatchType
	Data []byte
	// Edit, if set, makes what a strategic merge patch would, instead of Data: a copy that may share with the object what is the same in both.
	Edit func(runtime.Object) (runtime.Object, error)
	// Validation says what becomes of unknown and duplicate fields: Ignore, Warn or Strict.
	Validation string
	// Warn is told of such fields when Validation is Warn.
	Warn func(string)
}

func (p *Patch) strictly() bool { return p.Validation != metav1.FieldValidationIgnore }

// Target is what a patch is applied to.
type Target struct {
	negotiate.Target
	Types interface {
		negotiate.Types
		New(schema.GroupVersionKind) (runtime.Object, error)
	}
	// Object is the current object in the patch's version. It is not modified.
	Object runtime.Object
	// JSON returns the current object's JSON.
	JSON func() ([]byte, error)
	// Untyped, if set, reads the patched JSON of a kind that has no Go type of its own, and tells what is unknown or twice in it.
	Untyped func(patched []byte, strictly bool) (obj runtime.Object, strict []error, err error)
	// Merge, if Untyped is set, carries out a merge patch without the detour over JSON, or says that it can't. It may keep the patch.
	Merge func(patch map[string]any, strictly bool) (obj runtime.Object, ok bool)
}

// Apply applies a JSON, merge or strategic merge patch and returns the new object, in the patch's version and without defaults.
func (p *Patch) Apply(t Target) (runtime.Object, error) {
	switch p.Type {
	case types.JSONPatchType:
		return p.jsonPatch(t)
	case types.MergePatchType:
		return p.mergePatch(t)
	case types.StrategicMergePatchType:
		return p.strategic(t)
	}
	return nil, negotiate.UnsupportedPatch()
}

// jsonPatchOp is an operation as RFC 6902 has it; it serves only to find fields that it does not have.
type jsonPatchOp struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from"`
	Value json.RawMessage `json:"value"`
}

func (p *Patch) jsonPatch(t Target) (runtime.Object, error) {
	var strict []error
	if p.strictly() {
		var ops []jsonPatchOp
		var err error
		if strict, err = kjson.UnmarshalStrict(p.Data, &ops); err != nil {
			// Clients know the type by the name that upstream gives it.
			return nil, apierrors.NewBadRequest("error decoding patch: " + strings.ReplaceAll(err.Error(), "apply.jsonPatchOp", "handlers.jsonPatchOp"))
		}
		for i, e := range strict {
			strict[i] = fmt.Errorf("json patch %w", e)
		}
	}
	patch, err := jsonpatch.DecodePatch(p.Data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(patch) > maxOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(patch)))
	}
	doc, err := t.JSON()
	if err != nil {
		return nil, err
	}
	patched, err := patch.Apply(doc)
	if err != nil {
		return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return p.decode(t, patched, strict)
}

func (p *Patch) mergePatch(t Target) (runtime.Object, error) {
	var strict []error
	var members map[string]any
	if p.strictly() {
		var err error
		if strict, err = kjson.UnmarshalStrict(p.Data, &members); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
	}
	switch {
	case len(strict) > 0:
	case t.Untyped == nil:
		if obj := t.Object.DeepCopyObject(); mergeInto(obj, p.Data) {
			return obj, nil
		}
	case members != nil:
		if obj, ok := t.Merge(members, p.strictly()); ok {
			return obj, nil
		}
	}
	doc, err := t.JSON()
	if err != nil {
		return nil, err
	}
	patched, err := jsonpatch.MergePatch(doc, p.Data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return p.decode(t, patched, strict)
}

// Unreadable refuses a patch whose result cannot be understood, for the reason err. What the patch makes of the document is shown as for one that is no object of its
// type; a strategic merge patch makes no document.
func (p *Patch) Unreadable(t Target, err error) error {
	if p.Edit != nil || p.Type == types.StrategicMergePatchType {
		return err
	}
	doc, e := t.JSON()
	if e != nil {
		return e
	}
	var patched []byte
	if p.Type == types.MergePatchType {
		patched, e = jsonpatch.MergePatch(doc, p.Data)
	} else {
		var patch jsonpatch.Patch
		if patch, e = jsonpatch.DecodePatch(p.Data); e == nil {
			patched, e = patch.Apply(doc)
		}
	}
	if e != nil {
		return e
	}
	return refuse(string(patched), err)
}

// decode reads the patched JSON.
func (p *Patch) decode(t Target, patched []byte, strict []error) (runtime.Object, error) {
	if t.Untyped != nil {
		obj, more, err := t.Untyped(patched, p.strictly())
		if err != nil {
			return nil, refuse(string(patched), cmp.Or(negotiate.NoObject(patched), err))
		}
		return obj, p.complain(string(patched), append(strict, more...))
	}
	obj := t.New()
	var more []error
	var err error
	if p.strictly() {
		more, err = kjson.UnmarshalStrict(patched, obj)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(patched, obj)
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	if gvk != t.Kind {
		if nerr := negotiate.NoObject(patched); nerr != nil {
			return nil, refuse(string(patched), nerr)
		}
		gvk = negotiate.KindOf(patched)
	}
	switch {
	case gvk == t.Kind || err != nil && gvk.Empty():
	case badVersion(patched) != nil:
		return nil, refuse(string(patched), badVersion(patched))
	case gvk.Group == "" && gvk.Version == "":
		// Without an apiVersion nothing of the document is recognized; the missing name is what is complained about.
		return t.New(), p.complain(string(patched), allUnknown(patched))
	case gvk.Kind == "" && gvk.GroupVersion() == t.Kind.GroupVersion():
	default:
		err = otherKind(t, patched, gvk)
	}
	if err != nil {
		return nil, refuse(string(patched), cmp.Or(negotiate.NoObject(patched), err))
	}
	return obj, p.complain(string(patched), append(strict, more...))
}

// badVersion says what is wrong with a document's apiVersion, which has to be a group and a version.
func badVersion(doc []byte) error {
	var m metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &m); err != nil {
		return err
	}
	_, err := schema.ParseGroupVersion(m.APIVersion)
	return err
}

// allUnknown complains of every field of a document.
func allUnknown(doc []byte) []error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(doc, &fields) != nil {
		return nil
	}
	var out []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if name != "kind" && name != "apiVersion" {
			out = append(out, fmt.Errorf("unknown field %q", name))
		}
	}
	return out
}

// otherKind says what is wrong with a patch that changes apiVersion or kind.
func otherKind(t Target, patched []byte, gvk schema.GroupVersionKind) error {
	if !t.Types.Recognizes(gvk) {
		return negotiate.NotRegistered(gvk)
	}
	if other, err := t.Types.New(gvk); err == nil {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(patched, other); err != nil {
			return err
		}
	}
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", gvk.Version, gvk.Kind, t.Internal, t.Kind.Kind)
}

func refuse(value string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, err.Error())})
}

// complain warns of unknown and duplicate fields, or refuses them.
func (p *Patch) complain(value string, strict []error) error {
	if len(strict) == 0 || !p.strictly() {
		return nil
	}
	if p.Validation == metav1.FieldValidationStrict {
		return refuse(value, runtime.NewStrictDecodingError(strict))
	}
	for _, w := range negotiate.StrictWarnings(strict) {
		p.Warn(w)
	}
	return nil
}

func (p *Patch) strategic(t Target) (runtime.Object, error) {
	if p.Edit != nil {
		return p.Edit(t.Object)
	}
	patch := map[string]any{}
	var strict []error
	var err error
	if p.strictly() {
		strict, err = kjson.UnmarshalStrict(p.Data, &patch)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.Data, &patch)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(strict) == 0 {
		if obj := t.Object.DeepCopyObject(); strategicInto(obj, p.Data) {
			return obj, nil
		}
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(t.Object)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, patch, t.Object)
	if err != nil {
		return nil, strategicError(err)
	}
	obj := t.New()
	// The patch is shown as it is after the merge took it apart.
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, obj, p.strictly()); err != nil {
		more, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return nil, refuse(fmt.Sprintf("%+v", patch), err)
		}
		strict = append(strict, more.Errors()...)
	}
	return obj, p.complain(fmt.Sprintf("%+v", patch), strict)
}

func strategicError(err error) error {
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists):
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return err
}

// Check refuses a body that is no JSON, or with server-side apply no YAML, before anybody looks for the object.
func (p *Patch) Check() error {
	switch {
	case p.Edit != nil:
	case p.Type != types.ApplyYAMLPatchType:
		if !json.Valid(p.Data) {
			return apierrors.NewBadRequest("invalid JSON patch")
		}
	case !utilyaml.IsJSONBuffer(p.Data): // what looks like JSON is read as YAML later, if need be
		if _, err := yaml.YAMLToJSON(p.Data); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("error encoding patch: %v", err))
		}
	}
	return nil
}

// Configuration reads the body of a server-side apply. When applying has succeeded, done is to be asked: it complains of fields that come twice.
func (p *Patch) Configuration() (u *unstructured.Unstructured, done func() error, err error) {
	u = &unstructured.Unstructured{Object: map[string]any{}}
	done = func() error { return nil }
	if len(p.Data) > 0 && p.Data[0] == '{' {
		// Clients send JSON, which is read much faster than YAML. What is wrong with it is told in the words of YAML.
		strict, err := kjson.UnmarshalStrict(p.Data, &u.Object)
		if err == nil && len(strict) == 0 && u.Object != nil {
			negotiate.Integers(u.Object)
			return u, done, nil
		}
		u.Object = map[string]any{}
	}
	if err := utilyaml.Unmarshal(p.Data, &u.Object); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if !p.strictly() {
		return u, done, nil
	}
	var again map[string]any
	twice := yaml.UnmarshalStrict(p.Data, &again)
	switch {
	case twice == nil:
	case p.Validation == metav1.FieldValidationStrict:
		done = func() error { return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", twice)) }
	default:
		done = func() error {
			for _, w := range negotiate.StrictWarnings([]error{twice}) {
				p.Warn(w)
			}
			return nil
		}
	}
	return u, done, nil
}
