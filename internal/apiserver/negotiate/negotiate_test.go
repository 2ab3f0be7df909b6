package negotiate

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestParseAccept(t *testing.T) {
	for in, want := range map[string]Accept{
		"":                                       {Media: JSON},
		"*/*":                                    {Media: JSON},
		"application/yaml":                       {Media: YAML},
		"application/xml, application/json;q=.5": {Media: JSON},
		"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json": {Media: Protobuf, Shape: Metadata, MetaVersion: "v1"},
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io":   {Media: JSON, Shape: Table, MetaVersion: "v1"},
		"application/json;as=Table;v=v7;g=meta.k8s.io,application/json":                                    {Media: JSON},
		"application/json;q=0.1,application/yaml;q=0.9":                                                    {Media: YAML},
	} {
		got, err := ParseAccept(http.Header{"Accept": {in}})
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"text/html":     "406: Not Acceptable",
		"application/*": "406: Not Acceptable",
		"application/json;as=Nonsense;v=v1;g=meta.k8s.io": "only the following",
	} {
		if _, err := ParseAccept(http.Header{"Accept": {in}}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v", in, err)
		}
	}
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	if got, err := ParseTablelessAccept(http.Header{"Accept": {table + ",application/json"}}); err != nil || got != (Accept{Media: JSON}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ParseTablelessAccept(http.Header{"Accept": {table}}); err == nil || !strings.HasPrefix(err.Error(), "only the following") {
		t.Errorf("got %v", err)
	}
}

type known map[schema.GroupVersionKind]bool

func (k known) Recognizes(g schema.GroupVersionKind) bool { return k[g] }

var configMap = Target{Kind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), New: func() runtime.Object { return &corev1.ConfigMap{} }, Internal: "core"}

var kinds = known{
	configMap.Kind: true,
	corev1.SchemeGroupVersion.WithKind("Secret"): true,
}

func TestDecodeErrors(t *testing.T) {
	for _, c := range []struct{ media, body, want string }{
		{JSON, "{", "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)"},
		{JSON, "hello", "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value (68656c6c6f)"},
		{JSON, `{"data":{"k":1}}`, `ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string`},
		{JSON, `{"kind":"Secret"}`, `Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion`},
		{JSON, `{"apiVersion":"v2"}`, `ConfigMap in version "v2" cannot be handled as a ConfigMap: no kind "ConfigMap" is registered for version "v2" in scheme "pkg/runtime/scheme.go:111"`},
		{JSON, `{"foo":1}`, `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "foo"`},
		{Protobuf, "k8s-not-protobuf", "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (6b38732d6e6f742d70726f746f627566)"},
		{"text/plain", "", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
	} {
		_, _, err := Decode([]byte(c.body), c.media, configMap, metav1.FieldValidationStrict, kinds)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got  %v\nwant %s", c.body, err, c.want)
		}
	}
}

func FuzzParseAccept(f *testing.F) {
	for _, s := range []string{"application/json;as=Table;v=v1;g=meta.k8s.io", ",;,=;q=x", "a/b;q=1e999,*/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAccept(http.Header{"Accept": {s}}); err == nil && a.Media == "" {
			t.Fatal("no media type and no error")
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}}`), 0)
	f.Add([]byte("apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n"), 1)
	f.Add([]byte("k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02\x0a\x00"), 2)
	f.Add([]byte(strings.Repeat("[", 5000)), 0)
	f.Fuzz(func(t *testing.T, data []byte, media int) {
		m := [...]string{JSON, YAML, Protobuf}[uint(media)%3]
		obj, _, err := Decode(data, m, configMap, metav1.FieldValidationWarn, kinds)
		if err == nil && obj.GetObjectKind().GroupVersionKind() != configMap.Kind {
			t.Fatal("decoded into something else")
		}
	})
}
