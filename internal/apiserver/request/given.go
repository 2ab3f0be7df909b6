package request

import (
	"bytes"
	"io"

	"k8s.io/apimachinery/pkg/runtime"
)

// NoAnswer is the value of a Prefer header by which somebody in this process says that nobody will read the answer (RFC 7240, section 4.2).
const NoAnswer = "return=minimal"

// Given is the body of a request by somebody in this process who gives the server an object instead of its encoding. Whoever looks for bytes, like the audit
// log, finds them: they are made when they are read first. It is not safe for concurrent use, as bodies aren't.
type Given struct {
	obj    runtime.Object
	encode func(runtime.Object) ([]byte, error)
	bytes  *bytes.Reader
	err    error
}

// Give makes a body of obj, which belongs to the server from then on. It must be what decoding its encoding gives, and say its kind and version.
func Give(obj runtime.Object, encode func(runtime.Object) ([]byte, error)) *Given {
	return &Given{obj: obj, encode: encode}
}

// Object is what was given; nil after Read or Take.
func (g *Given) Object() runtime.Object { return g.obj }

// Take returns what was given, and leaves nothing.
func (g *Given) Take() runtime.Object {
	obj := g.obj
	g.obj = nil
	return obj
}

// Read reads the encoding.
func (g *Given) Read(p []byte) (int, error) {
	if g.bytes == nil && g.err == nil {
		obj := g.Take()
		if obj == nil {
			return 0, io.EOF
		}
		var data []byte
		data, g.err = g.encode(obj)
		g.bytes = bytes.NewReader(data)
	}
	if g.err != nil {
		return 0, g.err
	}
	return g.bytes.Read(p)
}

// Close does nothing.
func (g *Given) Close() error { return nil }

// Edit is the body of a strategic merge patch by somebody in this process who changes the object himself instead of having a patch read and merged. Whoever looks
// for bytes finds the patch, which does the same. It is not safe for concurrent use, as bodies aren't.
type Edit struct {
	apply  func(runtime.Object) (runtime.Object, error)
	encode func() ([]byte, error)
	bytes  *bytes.Reader
	err    error
}

// GiveEdit makes a body of what apply makes of an object of the version that the request names: a changed copy, which may share with it what is the same in both. It must
// be what the patch that encode returns would make of it, with nothing that a default would be filled in for. It may be asked for several times, each with another state
// of the object.
func GiveEdit(apply func(runtime.Object) (runtime.Object, error), encode func() ([]byte, error)) *Edit {
	return &Edit{apply: apply, encode: encode}
}

// Apply returns a changed copy of an object.
func (e *Edit) Apply(obj runtime.Object) (runtime.Object, error) { return e.apply(obj) }

// Read reads the patch.
func (e *Edit) Read(p []byte) (int, error) {
	if e.bytes == nil && e.err == nil {
		var data []byte
		data, e.err = e.encode()
		e.bytes = bytes.NewReader(data)
	}
	if e.err != nil {
		return 0, e.err
	}
	return e.bytes.Read(p)
}

// Close does nothing.
func (e *Edit) Close() error { return nil }
