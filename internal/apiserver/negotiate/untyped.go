package negotiate

import (
	"errors"
	"fmt"
	"math"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// ErrNoVersion is upstream's complaint about an object without an apiVersion.
//
//lint:ignore ST1005 clients know these words
var ErrNoVersion = errors.New("Object 'apiVersion' is missing in 'object has no apiVersion field'")

// Untyped reads a body as JSON values, for kinds without a Go type, and as what it is said to be. It checks what every body must have: a kind, and an apiVersion
// that can be read, if there is one. Strict are the fields that come twice.
func Untyped(data []byte, media string, t Target, strictly bool) (m map[string]any, gvk schema.GroupVersionKind, strict []error, err error) {
	original := data
	switch media {
	case JSON:
	case YAML:
		if data, err = yaml.YAMLToJSON(original); err != nil {
			return nil, gvk, nil, unrecognized(t, trimYAML(err), original)
		}
	default:
		return nil, gvk, nil, UnsupportedBody()
	}
	switch {
	case !strictly:
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &m)
	case media == YAML:
		if _, twice := yaml.YAMLToJSONStrict(original); twice != nil {
			strict = append(strict, trimYAML(twice))
		}
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &m)
	default:
		strict, err = kjson.UnmarshalStrict(data, &m)
	}
	meta, ok := typeOf(m)
	if err != nil || !ok {
		// Say what is wrong in the order in which upstream looks.
		var kindErr error
		if meta, kindErr = interpret(data); kindErr != nil {
			return nil, gvk, nil, unrecognized(t, fmt.Errorf("couldn't get version/kind; json parse error: %w", kindErr), original)
		}
	}
	if meta.APIVersion != "" {
		if _, err := schema.ParseGroupVersion(meta.APIVersion); err != nil {
			return nil, gvk, nil, unrecognized(t, err, original)
		}
	}
	switch {
	case err != nil && meta.Kind == "":
		return nil, gvk, nil, unrecognized(t, err, original)
	case err != nil:
		return nil, gvk, nil, cannotHandle(fill(meta, t.Kind), t.Kind.Kind, err)
	case meta.Kind == "" && !strictly:
		return nil, gvk, nil, cannotHandle(fill(meta, t.Kind), t.Kind.Kind, runtime.NewMissingKindErr(string(data)))
	case meta.Kind == "":
		return nil, gvk, nil, unrecognized(t, runtime.NewMissingKindErr(string(original)), original)
	}
	if value, there := m["apiVersion"]; there && value == nil {
		return nil, gvk, nil, cannotHandle(schema.GroupVersionKind{Kind: meta.Kind}, t.Kind.Kind, errors.New(".apiVersion accessor error: <nil> is of the type <nil>, expected string"))
	}
	return m, schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind), strict, nil
}

// Integers replaces whole numbers that were written with a fraction (1.0, 1e3) by integers, as they are when they have been written and are read again. It changes
// maps and lists in place, those in which there is anything to replace.
func Integers(v any) any {
	switch v := v.(type) {
	case float64:
		const end = 1 << 63
		if v == math.Trunc(v) && v >= -end && v < end {
			return int64(v)
		}
	case map[string]any:
		for k, e := range v {
			if n := Integers(e); replaced(e, n) {
				v[k] = n
			}
		}
	case []any:
		for i, e := range v {
			if n := Integers(e); replaced(e, n) {
				v[i] = n
			}
		}
	}
	return v
}

func replaced(before, after any) bool {
	_, was := before.(float64)
	_, is := after.(int64)
	return was && is
}

// typeOf reads apiVersion and kind; not ok if they are not both texts.
func typeOf(m map[string]any) (metav1.TypeMeta, bool) {
	version, ok := m["apiVersion"].(string)
	kind, ok2 := m["kind"].(string)
	return metav1.TypeMeta{APIVersion: version, Kind: kind}, ok && ok2
}

// CheckVersion refuses a body that says another apiVersion than the path.
func CheckVersion(apiVersion string, want schema.GroupVersion) error {
	if apiVersion != want.String() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", apiVersion, want))
	}
	return nil
}

// CannotHandle says what is wrong with a body of the kind t, whatever it says of its kind itself.
func CannotHandle(t Target, found schema.GroupVersionKind, err error) error {
	return cannotHandle(found, t.Kind.Kind, err)
}

// Complain turns the complaints of strict decoding of a body of the kind gvk into warnings, or with Strict into an error.
func Complain(gvk schema.GroupVersionKind, v Validation, strict []error) ([]string, error) {
	switch {
	case len(strict) == 0 || !v.Strictly():
		return nil, nil
	case v == metav1.FieldValidationStrict && gvk.Version == "":
		return nil, apierrors.NewBadRequest(ErrNoVersion.Error())
	case v == metav1.FieldValidationStrict:
		return nil, cannotHandle(gvk, gvk.Kind, runtime.NewStrictDecodingError(strict))
	}
	return StrictWarnings(strict), nil
}

// UnknownFields makes complaints about the paths of unknown fields.
func UnknownFields(paths []string) []error {
	out := make([]error, len(paths))
	for i, p := range paths {
		out[i] = errors.New(`unknown field "` + p + `"`)
	}
	return out
}
