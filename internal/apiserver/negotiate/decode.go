package negotiate

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MaxBody is how many bytes a request's body may have.
const MaxBody = 3 * 1024 * 1024

// SchemeName is how upstream's messages name the set of types that a server knows; clients see it in errors about unknown kinds.
const SchemeName = "pkg/runtime/scheme.go:111"

// ReadBody reads a request's body of at most MaxBody bytes.
func ReadBody(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > MaxBody {
		return nil, tooLarge()
	}
	var data []byte
	if r.ContentLength > 0 {
		data = make([]byte, 0, r.ContentLength+1)
	} else {
		data = make([]byte, 0, 512)
	}
	for {
		n, err := r.Body.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if len(data) > MaxBody {
			return nil, tooLarge()
		}
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("reading the request's body: %v", err))
		}
		if len(data) == cap(data) {
			grown := make([]byte, len(data), 2*cap(data))
			copy(grown, data)
			data = grown
		}
	}
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", MaxBody))
}

// Validation says what becomes of fields that the type does not have, or that come twice.
type Validation string

// Strictly says whether such fields have to be looked for at all.
func (v Validation) Strictly() bool { return v != metav1.FieldValidationIgnore }

// Types tells which kinds exist at all, so that messages can be exact.
type Types interface {
	Recognizes(schema.GroupVersionKind) bool
}

// Target is what a body is to become.
type Target struct {
	// Kind is what the path expects; a body without apiVersion or kind is taken for it.
	Kind schema.GroupVersionKind
	// New makes an empty object of that kind.
	New func() runtime.Object
	// Internal is the group's name in upstream's Go types ("core", "apps"), which its messages show.
	Internal string
	// Read, if set, reads JSON of which there is nothing to complain into an empty object. If it reports false, another object is tried in
	// another way.
	Read func(data []byte, obj any) bool
	// Gone are versions of the kind that are no longer served: a body of one is told which it should be.
	Gone []schema.GroupVersion
	// Alias is another group and version that the body may say: its form is the same.
	Alias schema.GroupVersion
}

func (t *Target) wants(gvk schema.GroupVersionKind) bool {
	return gvk == t.Kind || gvk.Kind == t.Kind.Kind && !t.Alias.Empty() && gvk.GroupVersion() == t.Alias
}

// Decode reads a body into a new object of t.Kind, with apiVersion and kind set. Errors are what the API answers: 400 with
// upstream's words, 415. Warnings, which may come with an error, are the complaints about unknown and duplicate fields unless v is Strict, which makes them an error.
func Decode(data []byte, media string, t Target, v Validation, types Types) (obj runtime.Object, warnings []string, err error) {
	obj = t.New()
	var strict []error
	switch media {
	case JSON:
		if t.Read != nil {
			if t.Read(data, obj) && t.wants(obj.GetObjectKind().GroupVersionKind()) {
				break
			}
			obj = t.New()
		}
		strict, err = decodeJSON(data, obj, t, v, types)
	case YAML:
		strict, err = decodeYAML(data, obj, t, v, types)
	case Protobuf:
		err = decodeProtobuf(data, obj, t, types)
	default:
		return nil, nil, UnsupportedBody()
	}
	if err != nil {
		return nil, StrictWarnings(strict), err
	}
	obj.GetObjectKind().SetGroupVersionKind(t.Kind)
	if len(strict) == 0 {
		return obj, nil, nil
	}
	if v == metav1.FieldValidationStrict {
		return nil, nil, cannotHandle(t.Kind, t.Kind.Kind, runtime.NewStrictDecodingError(strict))
	}
	return obj, StrictWarnings(strict), nil
}

// StrictWarnings turns the complaints of a strict decoder into warnings, one a field.
func StrictWarnings(errs []error) []string {
	var out []string
	for _, e := range errs {
		text := e.Error()
		if rest, ok := strings.CutPrefix(strings.TrimPrefix(text, "error converting YAML to JSON: "), "yaml: unmarshal errors:\n"); ok {
			for line := range strings.SplitSeq(rest, "\n") {
				if line = strings.TrimSpace(line); line != "" {
					out = append(out, line)
				}
			}
			continue
		}
		out = append(out, text)
	}
	return out
}

func decodeJSON(data []byte, obj runtime.Object, t Target, v Validation, types Types) (strict []error, err error) {
	if v.Strictly() {
		strict, err = kjson.UnmarshalStrict(data, obj)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
	}
	if err == nil {
		if t.wants(obj.GetObjectKind().GroupVersionKind()) {
			return strict, nil
		}
	}
	// Something is not as it should be, or apiVersion and kind are missing: say what, in the order in which upstream looks.
	gvk, kindErr := interpret(data)
	if kindErr != nil {
		return nil, unrecognized(t, fmt.Errorf("couldn't get version/kind; json parse error: %w", kindErr), data)
	}
	if err := checkKind(gvk, t, types, data); err != nil {
		return foreign(data, fill(gvk, t.Kind), t, v, types, err)
	}
	if err != nil {
		return nil, cannotHandle(fill(gvk, t.Kind), t.Kind.Kind, err)
	}
	return strict, nil
}

// foreign looks at a body of another known kind than the wanted one, which refusal is about: what is wrong with it as one of its own kind is told first.
func foreign(data []byte, gvk schema.GroupVersionKind, t Target, v Validation, types Types, refusal error) (strict []error, err error) {
	maker, ok := types.(interface {
		New(schema.GroupVersionKind) (runtime.Object, error)
	})
	if !ok || gvk == t.Kind {
		return nil, refusal // apiVersion is none at all
	}
	obj, err := maker.New(gvk)
	if err != nil {
		return nil, refusal // nobody knows that kind
	}
	if strict, err = kjson.UnmarshalStrict(data, obj); err != nil {
		return nil, cannotHandle(gvk, t.Kind.Kind, err)
	}
	switch {
	case len(strict) == 0 || !v.Strictly() || gvk.Kind != t.Kind.Kind: // another kind is refused before anybody looks for unknown fields
		return nil, refusal
	case v == metav1.FieldValidationStrict:
		return nil, cannotHandle(gvk, t.Kind.Kind, runtime.NewStrictDecodingError(strict))
	}
	return strict, refusal
}

// interpret reads apiVersion and kind alone. The type's form shows in messages.
func interpret(data []byte) (metav1.TypeMeta, error) {
	find := struct {
		APIVersion string `json:"apiVersion,omitempty"`
		Kind       string `json:"kind,omitempty"`
	}{}
	if err := json.Unmarshal(data, &find); err != nil {
		return metav1.TypeMeta{}, err
	}
	return metav1.TypeMeta{APIVersion: find.APIVersion, Kind: find.Kind}, nil
}

// KindOf is what a document says that it is. As with all bodies, apiVersion and kind are recognized in any case, though other fields aren't.
func KindOf(doc []byte) schema.GroupVersionKind {
	m, err := interpret(doc)
	if err != nil {
		return schema.GroupVersionKind{}
	}
	return schema.FromAPIVersionAndKind(m.APIVersion, m.Kind)
}

// NoObject says why a document cannot have a kind: it is no object, or its apiVersion or kind is no text. Nil if it can.
func NoObject(doc []byte) error {
	if _, err := interpret(doc); err != nil {
		return fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	return nil
}

func fill(m metav1.TypeMeta, def schema.GroupVersionKind) schema.GroupVersionKind {
	gvk := def
	if m.APIVersion != "" {
		if gv, err := schema.ParseGroupVersion(m.APIVersion); err == nil {
			gvk.Group, gvk.Version = gv.Group, gv.Version
		}
	}
	if m.Kind != "" {
		gvk.Kind = m.Kind
	}
	return gvk
}

// checkKind compares what the body says it is with what the path wants.
func checkKind(m metav1.TypeMeta, t Target, types Types, data []byte) error {
	if m.APIVersion != "" {
		if _, err := schema.ParseGroupVersion(m.APIVersion); err != nil {
			return unrecognized(t, err, data)
		}
	}
	gvk := fill(m, t.Kind)
	switch {
	case t.wants(gvk):
		return nil
	case !types.Recognizes(gvk) && (gvk.Kind != t.Kind.Kind || !slices.Contains(t.Gone, gvk.GroupVersion())):
		return cannotHandle(gvk, t.Kind.Kind, NotRegistered(gvk))
	case gvk.Kind == t.Kind.Kind:
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), t.Kind.GroupVersion()))
	}
	from := gvk.Version
	switch gvk.Kind {
	case "CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions", "WatchEvent":
		from = "v1" // where the Go type is, whatever group version it is known in
	}
	return cannotHandle(gvk, t.Kind.Kind, fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", from, gvk.Kind, t.Internal, t.Kind.Kind))
}

// NotRegistered is the message about a kind that no server knows.
func NotRegistered(gvk schema.GroupVersionKind) error {
	return fmt.Errorf("no kind %q is registered for version %q in scheme %q", gvk.Kind, gvk.GroupVersion(), SchemeName)
}

func decodeYAML(data []byte, obj runtime.Object, t Target, v Validation, types Types) ([]error, error) {
	asJSON, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, unrecognized(t, trimYAML(err), data)
	}
	m, err := interpret(asJSON)
	if err != nil {
		return nil, unrecognized(t, fmt.Errorf("couldn't get version/kind; json parse error: %w", err), data)
	}
	if err := checkKind(m, t, types, data); err != nil {
		return foreign(asJSON, fill(m, t.Kind), t, v, types, err)
	}
	var strict []error
	if v.Strictly() {
		if _, err := yaml.YAMLToJSONStrict(data); err != nil {
			strict = append(strict, trimYAML(err))
		}
	}
	more, err := kjson.UnmarshalStrict(asJSON, obj)
	if err != nil {
		return nil, cannotHandle(fill(m, t.Kind), t.Kind.Kind, err)
	}
	if v.Strictly() {
		strict = append(strict, more...)
	}
	return strict, nil
}

// trimYAML takes off what the YAML library puts before its message.
func trimYAML(err error) error {
	if s, ok := strings.CutPrefix(err.Error(), "error converting YAML to JSON: "); ok {
		return errors.New(s)
	}
	return err
}

// protobufPrefix begins every protobuf body.
var protobufPrefix = []byte{'k', '8', 's', 0}

type protoUnmarshaler interface{ Unmarshal([]byte) error }

func decodeProtobuf(data []byte, obj runtime.Object, t Target, types Types) error {
	m, raw, err := UnwrapProtobuf(data)
	if err != nil {
		return unrecognized(t, err, data)
	}
	if err := checkKind(metav1.TypeMeta{APIVersion: m.APIVersion, Kind: m.Kind}, t, types, data); err != nil {
		return err
	}
	p, ok := obj.(protoUnmarshaler)
	if !ok {
		return UnsupportedBody()
	}
	if err := p.Unmarshal(raw); err != nil {
		return cannotHandle(t.Kind, t.Kind.Kind, err)
	}
	return nil
}

// UnwrapProtobuf takes the envelope off a protobuf body.
func UnwrapProtobuf(data []byte) (runtime.TypeMeta, []byte, error) {
	switch {
	case len(data) == 0:
		return runtime.TypeMeta{}, nil, errors.New("empty data")
	case len(data) == len(protobufPrefix) && bytes.Equal(data, protobufPrefix):
		return runtime.TypeMeta{}, nil, errors.New("empty body")
	}
	if len(data) < len(protobufPrefix) || !bytes.Equal(data[:4], protobufPrefix) {
		return runtime.TypeMeta{}, nil, fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufPrefix)
	}
	var u runtime.Unknown
	if err := u.Unmarshal(data[4:]); err != nil {
		return runtime.TypeMeta{}, nil, err
	}
	return u.TypeMeta, u.Raw, nil
}

func cannotHandle(found schema.GroupVersionKind, want string, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", found.Kind, found.Version, want, err))
}

func unrecognized(t Target, err error, data []byte) error {
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", t.Kind.Kind, err, summary(data)))
}

// summary shows the beginning of a body in a message.
func summary(data []byte) string {
	const shown = 30
	switch {
	case len(data) == 0:
		return "<empty>"
	case data[0] == '{' && len(data) > shown:
		return string(data[:shown]) + " ..."
	case data[0] == '{':
		return string(data)
	case len(data) > shown:
		return hex.EncodeToString(data[:shown]) + " ..."
	}
	return hex.EncodeToString(data)
}
