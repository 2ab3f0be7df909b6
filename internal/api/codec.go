package api

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// Codec turns objects of one kind into stored bytes and back. It satisfies store.Codec.
type Codec interface {
	// Append appends the stored form of a hub object, without a resourceVersion. It does not change obj.
	Append(to []byte, obj Object) ([]byte, error)
	// Decode reads what Encode or any upstream server wrote, in any version that the kind knows.
	Decode(data []byte) (Object, error)
}

// magic begins every stored protobuf value (upstream's runtime/serializer/protobuf).
var magic = [4]byte{'k', '8', 's', 0}

// Wire tags of runtime.Unknown's fields: typeMeta=1, raw=2, contentEncoding=3, contentType=4, all length-delimited.
const (
	tagTypeMeta        = 1<<3 | 2
	tagRaw             = 2<<3 | 2
	tagContentEncoding = 3<<3 | 2
	tagContentType     = 4<<3 | 2
)

type protoMarshaller interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

type protoUnmarshaller interface {
	Unmarshal([]byte) error
}

// codec writes the hub version as "k8s\x00" and a protobuf runtime.Unknown, or as JSON where the Go type has no protobuf form
// (apiextensions and apiregistration are written so by upstream).
type codec struct {
	catalogue *Catalogue
	kind      *Kind
	hub       *Version
	typ       reflect.Type
	head      []byte // magic and type meta, up to and with raw's tag
	asJSON    bool
}

func newCodec(c *Catalogue, k *Kind, hub *Version) *codec {
	gvk := k.HubKind()
	meta := runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}
	head := append([]byte(nil), magic[:]...)
	head = append(head, tagTypeMeta)
	head = binary.AppendUvarint(head, uint64(meta.Size()))
	if m, err := meta.Marshal(); err == nil { // never fails: two strings
		head = append(head, m...)
	}
	head = append(head, tagRaw)
	sample := hub.New()
	_, proto := sample.(protoMarshaller)
	return &codec{catalogue: c, kind: k, hub: hub, typ: reflect.TypeOf(sample), head: head, asJSON: !proto || k.StoredAsJSON}
}

func (c *codec) Append(to []byte, obj Object) ([]byte, error) {
	if reflect.TypeOf(obj) != c.typ {
		return nil, fmt.Errorf("encoding %s: got a %T", c.kind.GroupKind(), obj)
	}
	if obj.GetResourceVersion() != "" {
		// A copy of the outer struct is enough to leave the caller's object alone.
		shallow := reflect.New(c.typ.Elem())
		shallow.Elem().Set(reflect.ValueOf(obj).Elem())
		obj = shallow.Interface().(Object)
		obj.SetResourceVersion("")
	}
	if c.asJSON {
		data, err := json.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", c.kind.GroupKind(), err)
		}
		return append(append(to, data...), '\n'), nil
	}
	m := obj.(protoMarshaller)
	size := m.Size()
	out := slices.Grow(to, len(c.head)+binary.MaxVarintLen32+size+4)
	out = append(out, c.head...)
	out = binary.AppendUvarint(out, uint64(size))
	at := len(out)
	out = out[:at+size]
	n, err := m.MarshalToSizedBuffer(out[at:])
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", c.kind.GroupKind(), err)
	}
	if n != size {
		return nil, fmt.Errorf("encoding %s: the object changed while it was encoded", c.kind.GroupKind())
	}
	return append(out, tagContentEncoding, 0, tagContentType, 0), nil
}

func (c *codec) Decode(data []byte) (Object, error) {
	obj, err := c.decode(data)
	if err != nil {
		return nil, fmt.Errorf("decoding a stored %s: %w", c.kind.GroupKind(), err)
	}
	// What an older server wrote may lack fields that have defaults now; and a few defaults have no stored form.
	if c.kind.Default != nil {
		c.kind.Default(obj)
	}
	if c.kind.Stored != nil {
		c.kind.Stored(obj)
	}
	if obj.GetResourceVersion() != "" {
		obj.SetResourceVersion("")
	}
	return obj, nil
}

func (c *codec) decode(data []byte) (Object, error) {
	var (
		meta runtime.TypeMeta
		raw  []byte
		read func(runtime.Object) error
	)
	switch {
	case bytes.HasPrefix(data, magic[:]):
		var u runtime.Unknown
		if err := u.Unmarshal(data[len(magic):]); err != nil {
			return nil, err
		}
		if u.ContentEncoding != "" || (u.ContentType != "" && u.ContentType != runtime.ContentTypeProtobuf) {
			return nil, fmt.Errorf("unknown content type %q, encoding %q", u.ContentType, u.ContentEncoding)
		}
		meta, raw = u.TypeMeta, u.Raw
		read = func(o runtime.Object) error {
			p, ok := o.(protoUnmarshaller)
			if !ok {
				return fmt.Errorf("%T has no protobuf form", o)
			}
			return p.Unmarshal(raw)
		}
	case len(bytes.TrimLeft(data, " \t\r\n")) > 0 && bytes.TrimLeft(data, " \t\r\n")[0] == '{':
		var t metav1.TypeMeta
		if err := json.Unmarshal(data, &t); err != nil {
			return nil, err
		}
		meta = runtime.TypeMeta{APIVersion: t.APIVersion, Kind: t.Kind}
		read = func(o runtime.Object) error { return json.Unmarshal(data, o) }
	default:
		return nil, errors.New("neither protobuf nor JSON")
	}
	v, err := c.versionOf(meta)
	if err != nil {
		return nil, err
	}
	obj := v.New()
	if err := read(obj); err != nil {
		return nil, err
	}
	return c.catalogue.ToHub(c.kind, v, obj)
}

// versionOf finds the version that stored bytes name. An unknown older version of the right kind (a beta that is no longer
// served) is read as the hub: the betas that upstream ever stored have the same fields in both their forms.
func (c *codec) versionOf(meta runtime.TypeMeta) (*Version, error) {
	gv, err := schema.ParseGroupVersion(meta.APIVersion)
	if err != nil {
		return nil, err
	}
	gvk := gv.WithKind(meta.Kind)
	if k, v, ok := c.catalogue.ByKind(gvk); ok {
		if k != c.kind {
			return nil, fmt.Errorf("found a %s", gvk)
		}
		return v, nil
	}
	if gvk.GroupKind() == c.kind.GroupKind() && version.CompareKubeAwareVersionStrings(gv.Version, c.kind.Hub) < 0 {
		return c.hub, nil
	}
	return nil, fmt.Errorf("found a %s, which no version of the kind is", gvk)
}

// compareVersions orders versions as Kubernetes does: v2 > v1 > v2beta1 > v1beta1 > v1alpha1.
func compareVersions(a, b string) int { return version.CompareKubeAwareVersionStrings(a, b) }

// throughJSON reads in's JSON form into out: for versions that differ in nothing else.
func throughJSON(in, out runtime.Object) error {
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}
