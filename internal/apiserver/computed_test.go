package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// weather has things, in namespaces, and skies, in none.
type weather struct{}

func (weather) Resource(name string) (namespaced, ok bool) {
	return name == "things", name == "things" || name == "skies"
}

func thing(namespace, name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{Kind: "Thing", APIVersion: "weather.example/v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data: map[string]string{"is": "wet"},
	}
}

func (weather) Get(_ context.Context, resource, namespace, name string) (runtime.Object, error) {
	if name == "none" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "weather.example", Resource: resource}, name)
	}
	return thing(namespace, name), nil
}

func (weather) List(_ context.Context, _, namespace string, ls labels.Selector, fs fields.Selector) (runtime.Object, error) {
	l := &corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ThingList", APIVersion: "weather.example/v1"}}
	o := *thing(namespace, "listed")
	if ls != nil {
		o.Data["labels"] = ls.String()
	}
	if fs != nil {
		o.Data["fields"] = fs.String()
	}
	o.TypeMeta = metav1.TypeMeta{}
	l.Items = append(l.Items, o)
	return l, nil
}

func (weather) Table(obj runtime.Object) *metav1.Table {
	if l, ok := obj.(*corev1.ConfigMapList); ok {
		obj = &l.Items[0]
	}
	return &metav1.Table{
		ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Name", Type: "string"}},
		Rows:              []metav1.TableRow{{Cells: []any{obj.(*corev1.ConfigMap).Name}, Object: runtime.RawExtension{Object: obj}}},
	}
}

func TestComputed(t *testing.T) {
	h := newServer(t, func(c *Config) {
		c.Computed = map[schema.GroupVersion]Computed{{Group: "weather.example", Version: "v1"}: weather{}}
	}).Handler()
	const root = "/apis/weather.example/v1"
	table, partial := "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	for _, tt := range []struct {
		method, path, accept string
		code                 int
		want                 string // in the answer
	}{
		{"GET", "/namespaces/ns/things/a", "", 200, `"name":"a","namespace":"ns"`},
		{"GET", "/skies/a", "", 200, `"name":"a"`},
		{"GET", "/skies/a", "application/yaml", 200, "is: wet"},
		{"GET", "/skies/none", "", 404, `skies.weather.example \"none\" not found`},
		{"GET", "/things", "", 200, `"kind":"ThingList"`},
		{"GET", "/namespaces/ns/things?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", "", 200, `"data":{"fields":"metadata.name=x","is":"wet","labels":"a=b"}`},
		{"GET", "/things?labelSelector=!!", "", 400, "BadRequest"},
		{"GET", "/things?fieldSelector=spec.color%3Dx", "", 400, `\"spec.color\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"`},
		{"GET", "/skies?fieldSelector=metadata.namespace%3Dx", "", 400, "is not a known field selector"},
		{"GET", "/things?fieldSelector=x", "", 400, "BadRequest"},
		{"GET", "/things", table, 200, `"kind":"Table"`},
		{"GET", "/things?includeObject=Object", table, 200, `"is":"wet"`},
		{"GET", "/things?includeObject=None", table, 200, `"cells":["listed"],"object":null`},
		{"GET", "/things?includeObject=Some", table, 400, "Unable to convert to Table"},
		{"GET", "/skies/a", table, 200, `"kind":"PartialObjectMetadata"`},
		{"GET", "/skies/a", partial, 200, `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a"}}`},
		{"GET", "/things", strings.Replace(partial, "Metadata", "MetadataList", 1), 200, `"kind":"PartialObjectMetadataList"`},
		{"GET", "/things", partial, 406, "NotAcceptable"},
		{"GET", "/things", "image/png", 406, "NotAcceptable"},
		{"GET", "/things?watch=1", "", 405, "MethodNotAllowed"},
		{"POST", "/namespaces/ns/things", "", 405, "MethodNotAllowed"},
		{"DELETE", "/namespaces/ns/things/a", "", 405, "MethodNotAllowed"},
		{"GET", "/things/a", "", 404, "could not find the requested resource"},
		{"GET", "/namespaces/ns/skies/a", "", 404, "could not find the requested resource"},
		{"GET", "/namespaces/ns/things/a/status", "", 404, "could not find the requested resource"},
		{"GET", "/clouds", "", 404, "could not find the requested resource"},
	} {
		var header []string
		if tt.accept != "" {
			header = []string{"Accept", tt.accept}
		}
		r := call(t, h, tt.method, root+tt.path, "", header...)
		if r.Code != tt.code || !strings.Contains(r.Body.String(), tt.want) {
			t.Errorf("%s %s as %q: %d %s", tt.method, tt.path, tt.accept, r.Code, r.Body)
		}
	}
	if r := call(t, h, "GET", root+"/things", "", "X-User", "eve"); r.Code != http.StatusForbidden {
		t.Errorf("somebody without rights: %d", r.Code)
	}
	if r := call(t, h, "GET", root+"/skies/a", "", "Accept", negotiate.Protobuf); r.Code != 200 || !strings.HasPrefix(r.Body.String(), "k8s\x00") {
		t.Errorf("protobuf: %d %q", r.Code, r.Body)
	}
	var list metav1.PartialObjectMetadataList
	r := call(t, h, "GET", root+"/things", "", "Accept", strings.Replace(partial, "Metadata", "MetadataList", 1))
	if err := json.Unmarshal(r.Body.Bytes(), &list); err != nil || len(list.Items) != 1 || list.Items[0].Name != "listed" {
		t.Errorf("metadata: %v %s", err, r.Body)
	}
}
