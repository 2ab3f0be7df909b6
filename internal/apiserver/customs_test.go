package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

const (
	thingsPath = "/apis/test.example.com/v1/namespaces/default/things"
	testThing  = `{"apiVersion":"test.example.com/v1","kind":"Thing","metadata":{"name":%q},"spec":{"small":%q}}`
)

// customServer is a server that serves things.
func customServer(t *testing.T, change ...func(*Config)) *Server {
	t.Helper()
	s := newServer(t, change...)
	runCustoms(t, s)
	want(t, s.Handler(), 201, "POST", benchDefinitions, definitionJSON("things", "Thing", "test.example.com", ""))
	awaitCustom(t, s, "things", "test.example.com", true)
	return s
}

func TestCustomObjects(t *testing.T) {
	s := customServer(t)
	h := s.Handler()
	made := want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	if at(made, "metadata", "generation") != 1.0 || at(made, "metadata", "managedFields", 0, "manager") != "tester" {
		t.Errorf("made %v", made)
	}
	list := want(t, h, 200, "GET", thingsPath, "")
	if list["kind"] != "ThingList" || at(list, "metadata", "continue") != "" || at(list, "items", 0, "kind") != "Thing" {
		t.Errorf("list %v", list)
	}
	changed := want(t, h, 200, "PATCH", thingsPath+"/a", `{"spec":{"small":"2","unknown":1}}`, "Content-Type", "application/merge-patch+json")
	if at(changed, "spec", "small") != "2" || at(changed, "spec", "unknown") != nil || at(changed, "metadata", "generation") != 2.0 {
		t.Errorf("changed %v", changed)
	}
	refused := want(t, h, 422, "PATCH", thingsPath+"/a", `{"spec":{"small":3}}`, "Content-Type", "application/merge-patch+json")
	if refused["message"] != `Thing.test.example.com "a" is invalid: spec.small: Invalid value: "integer": spec.small in body must be of type string: "integer"` {
		t.Errorf("refused with %v", refused["message"])
	}
	want(t, h, 415, "PATCH", thingsPath+"/a", `{}`, "Content-Type", "application/strategic-merge-patch+json")
	applied := want(t, h, 201, "PATCH", thingsPath+"/b?fieldManager=m", fmt.Sprintf(testThing, "b", "1"), "Content-Type", "application/apply-patch+yaml")
	if at(applied, "metadata", "managedFields", 0, "operation") != "Apply" {
		t.Errorf("applied %v", applied)
	}
	for accept, told := range map[string]string{
		"text/html": "only the following media types are accepted: application/json, application/yaml",
		"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1": "a list (*unstructured.UnstructuredList)",
	} {
		if w := call(t, h, "GET", thingsPath, "", "Accept", accept); w.Code != 406 || !strings.Contains(w.Body.String(), told) {
			t.Errorf("a list as %s: %d %s", accept, w.Code, w.Body)
		}
	}
	if w := call(t, h, "GET", thingsPath+"/a", "", "Accept", "application/vnd.kubernetes.protobuf"); w.Code != 406 {
		t.Errorf("as protobuf: %d", w.Code)
	}
	if got := want(t, h, 200, "GET", thingsPath+"/a", "", "Accept", "application/vnd.kubernetes.protobuf, application/json"); got["kind"] != "Thing" {
		t.Errorf("got %v", got)
	}
	want(t, h, 200, "DELETE", thingsPath+"/a", "")
	want(t, h, 404, "GET", thingsPath+"/a", "")
	if w := call(t, h, "GET", "/apis/test.example.com/v2/namespaces/default/things", ""); w.Code != 404 || w.Body.String() != "404 page not found\n" {
		t.Errorf("an unknown version: %d %s", w.Code, w.Body)
	}
}

// TestSubresourceVerbs: a subresource of a custom object names the verb that it doesn't have.
func TestSubresourceVerbs(t *testing.T) {
	s := newServer(t)
	runCustoms(t, s)
	h := s.Handler()
	text := strings.Replace(definitionJSON("things", "Thing", "test.example.com", ""), `"storage":true,`, `"storage":true,"subresources":{"status":{}},`, 1)
	want(t, h, 201, "POST", benchDefinitions, text)
	awaitCustom(t, s, "things", "test.example.com", true)
	want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	for method, verb := range map[string]string{"DELETE": "delete", "POST": "create"} {
		got := want(t, h, 405, method, thingsPath+"/a/status", "{}")
		if got["message"] != verb+` is not supported on resources of kind "things.test.example.com"` || at(got, "details", "kind") != "things" {
			t.Errorf("%s: %v", method, got)
		}
	}
}

// TestDefaultsOfStorageVersion: an object that was written in another version has the defaults of the one that it is stored in, at once.
func TestDefaultsOfStorageVersion(t *testing.T) {
	s := newServer(t)
	runCustoms(t, s)
	h := s.Handler()
	version := func(name, more, fields string) string {
		return `{"name":"` + name + `","served":true,` + more + `,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"small":{"type":"string"}` + fields + `}}}}}}`
	}
	want(t, h, 201, "POST", benchDefinitions, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.test.example.com"},"spec":{"group":"test.example.com","scope":"Namespaced",`+
		`"names":{"plural":"things","kind":"Thing"},"versions":[`+version("v1", `"storage":true`, `,"late":{"type":"string","default":"d"}`)+","+version("v2", `"storage":false`, "")+`]}}`)
	awaitCustom(t, s, "things", "test.example.com", true)
	second := strings.Replace(thingsPath, "/v1/", "/v2/", 1)
	made := want(t, h, 201, "POST", second, strings.Replace(fmt.Sprintf(testThing, "a", "1"), "/v1", "/v2", 1))
	if at(made, "spec", "late") != nil {
		t.Errorf("made %v", made["spec"])
	}
	got := want(t, h, 200, "GET", thingsPath+"/a", "")
	if at(got, "spec", "late") != "d" || at(got, "metadata", "generation") != 1.0 {
		t.Errorf("got %v", got)
	}
	labelled := want(t, h, 200, "PATCH", thingsPath+"/a", `{"metadata":{"labels":{"a":"b"}}}`, "Content-Type", "application/merge-patch+json")
	if at(labelled, "metadata", "generation") != 1.0 {
		t.Errorf("a label made another generation: %v", labelled)
	}
}

// TestOtherKinds: a body that says it is of another version or kind is read by the schema of what it says it is, before it is refused for that. What a status comes
// with is not looked at.
func TestOtherKinds(t *testing.T) {
	s := newServer(t)
	runCustoms(t, s)
	h := s.Handler()
	text := strings.Replace(definitionJSON("things", "Thing", "test.example.com", ""), `"versions":[`,
		`"versions":[{"name":"v0","served":false,"storage":false,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}},`, 1)
	text = strings.Replace(text, `"storage":true,`, `"storage":true,"subresources":{"status":{}},`, 1)
	want(t, h, 201, "POST", benchDefinitions, text)
	awaitCustom(t, s, "things", "test.example.com", true)
	want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	const (
		inMeta  = `unknown field "metadata.x"`
		missing = "Object 'apiVersion' is missing in 'object has no apiVersion field'"
	)
	version := func(said string) string {
		return "the API version in the data (" + said + ") does not match the expected API version (test.example.com/v1)"
	}
	strict := func(kind, version string, fields ...string) string {
		return kind + ` in version "` + version + `" cannot be handled as a ` + kind + ": strict decoding error: " + strings.Join(fields, ", ")
	}
	const unknownX, unknownSpec = `unknown field "x"`, `unknown field "spec"`
	for _, c := range []struct {
		apiVersion, kind string
		warnings         []string
		told, strictly   string
		patched          int
		patch            string
	}{
		{"test.example.com/v0", "Thing", []string{inMeta}, version("test.example.com/v0"), strict("Thing", "v0", inMeta), 422, "apiVersion: Invalid value"},
		{"test.example.com/v9", "Thing", []string{inMeta, unknownSpec, unknownX}, version("test.example.com/v9"), strict("Thing", "v9", inMeta, unknownSpec, unknownX), 422, "apiVersion: Invalid value"},
		{"other/v1", "Thing", []string{inMeta}, version("other/v1"), strict("Thing", "v1", inMeta), 422, `Thing.other "a" is invalid: apiVersion: Invalid value`},
		{"", "Thing", []string{inMeta}, version(""), missing, 500, missing},
		{"test.example.com/v1", "Other", []string{inMeta}, `Other.test.example.com "b" is invalid: kind: Invalid value: "Other": must be Thing`, strict("Other", "v1", inMeta), 422, `[kind: Invalid value: "Other": must be Thing]`},
		{"test.example.com/v0", "Other", []string{inMeta}, version("test.example.com/v0"), strict("Other", "v0", inMeta), 422,
			`[kind: Invalid value: "Other": must be Thing, apiVersion: Invalid value: "test.example.com/v0": must be test.example.com/v1]`},
		{"a/b/c", "Thing", nil, "unexpected GroupVersion string: a/b/c", "unexpected GroupVersion string: a/b/c", 422, "unexpected GroupVersion string: a/b/c"},
	} {
		body := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"b","x":1},"spec":{"small":"1"},"x":1}`, c.apiVersion, c.kind)
		w := call(t, h, "POST", thingsPath, body)
		var warned []string
		for _, h := range w.Header().Values("Warning") {
			warned = append(warned, strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(h, `299 - "`), `"`), `\"`, `"`))
		}
		if told := message(t, w); w.Code < 400 || !strings.Contains(told, c.told) || strings.Join(warned, "\n") != strings.Join(c.warnings, "\n") {
			t.Errorf("%s %s: %d %s, warned %q", c.apiVersion, c.kind, w.Code, told, warned)
		}
		if told := message(t, call(t, h, "POST", thingsPath+"?fieldValidation=Strict", body)); !strings.Contains(told, c.strictly) {
			t.Errorf("%s %s strictly: %s", c.apiVersion, c.kind, told)
		}
		patch := fmt.Sprintf(`{"apiVersion":%q,"kind":%q}`, c.apiVersion, c.kind)
		w = call(t, h, "PATCH", thingsPath+"/a", patch, "Content-Type", "application/merge-patch+json")
		if told := message(t, w); w.Code != c.patched || !strings.Contains(told, strings.Trim(c.patch, "[]")) {
			t.Errorf("%s %s patched: %d %s", c.apiVersion, c.kind, w.Code, told)
		}
	}
	status := want(t, h, 200, "PATCH", thingsPath+"/a/status", `{"apiVersion":"other/v1","kind":"Other","status":{"y":"z"}}`, "Content-Type", "application/merge-patch+json")
	if status["apiVersion"] != "test.example.com/v1" || status["kind"] != "Thing" || at(status, "metadata", "managedFields", 1) != nil {
		t.Errorf("a status by another name: %v", status)
	}
}

// TestHeads: custom objects have heads wherever they can be read, built-in ones nowhere; methods that mean nothing are named as such.
func TestHeads(t *testing.T) {
	s := customServer(t)
	h := s.Handler()
	want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	want(t, h, 201, "POST", "/api/v1/namespaces/default/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	const none, unnamed = "the server does not allow this method on the requested resource", ` is not supported on resources of kind "things.test.example.com"`
	for _, c := range []struct {
		method, path string
		code         int
		told         string
	}{
		{"HEAD", thingsPath, 200, ""},
		{"HEAD", thingsPath + "/a", 200, ""},
		{"HEAD", thingsPath + "/b", 404, ""},
		{"HEAD", thingsPath + "?watch=true&timeoutSeconds=1", 200, ""},
		{"HEAD", "/api/v1/namespaces/default/pods", 405, ""},
		{"HEAD", "/api/v1/namespaces/default/pods/p", 405, ""},
		{"HEAD", "/api/v1/namespaces/default/pods/p/log", 405, ""},
		{"OPTIONS", thingsPath + "/a", 405, unnamed},
		{"TRACE", thingsPath, 405, unnamed},
		{"TRACE", "/api/v1/namespaces/default/pods/p/proxy/x", 405, none},
		{"TRACE", "/api/v1/namespaces/default/services/s/proxy", 405, none},
		{"TRACE", "/api/v1/namespaces/default/pods/p", 405, none},
		{"FOO", "/api/v1/namespaces/default/pods/p/proxy", 405, none},
		{"PUT", thingsPath, 400, "name must be provided"},
		{"PATCH", thingsPath, 415, "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"},
		{"PUT", configMaps, 405, none},
	} {
		w := call(t, h, c.method, c.path, "")
		if w.Code != c.code || c.told != "" && message(t, w) != c.told {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.told)
		}
	}
}

// TestFormOfWatches: what is asked of a watch is looked at before the form of its events.
func TestFormOfWatches(t *testing.T) {
	s := customServer(t)
	h := s.Handler()
	for _, path := range []string{configMaps, thingsPath} {
		for _, c := range []struct {
			query, accept string
			code          int
			told          string
		}{
			{"resourceVersion=abc", "application/yaml", 500, "resourceVersion: Invalid value"},
			{"labelSelector=,,", "application/yaml", 400, "expected: !"},
			{"timeoutSeconds=1", "application/yaml", 406, "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"},
			{"timeoutSeconds=1", "application/yaml, application/json", 406, "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"},
			{"timeoutSeconds=1", "application/yaml;stream=watch", 406, "application/json"},
			{"resourceVersion=99999999999&timeoutSeconds=1", "application/json", 200, ""},
			{"timeoutSeconds=1", "application/json;stream=watch", 200, ""},
		} {
			w := call(t, h, "GET", path+"?watch=true&"+c.query, "", "Accept", c.accept)
			if w.Code != c.code || !strings.Contains(strings.ReplaceAll(w.Body.String(), "\n  ", " "), c.told) {
				t.Errorf("%s?%s as %s: %d %q, want %d %q", path, c.query, c.accept, w.Code, w.Body, c.code, c.told)
			}
		}
	}
}

// message is what a refusal says.
func message(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return s.Message
}

// TestDefinitionChanges: a changed schema counts for the objects that there are, and their watches end.
func TestDefinitionChanges(t *testing.T) {
	s := customServer(t)
	h := s.Handler()
	want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	patch := `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/later","value":{"type":"string","default":"now"}}]`
	watched := make(chan string, 1)
	began := &beginning{ResponseRecorder: httptest.NewRecorder(), begun: make(chan struct{})}
	go func() {
		h.ServeHTTP(began, httptest.NewRequest("GET", thingsPath+"?watch=true&timeoutSeconds=30", nil))
		watched <- began.Body.String()
	}()
	<-began.begun // the thing that is there has been shown
	want(t, h, 200, "PATCH", benchDefinitions+"/things.test.example.com", patch, "Content-Type", "application/json-patch+json")
	var got any
	for range 12000 {
		if got = at(want(t, h, 200, "GET", thingsPath+"/a", ""), "spec", "later"); got == "now" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got != "now" {
		t.Errorf("a new default shows as %v", got)
	}
	if body := <-watched; !strings.Contains(body, `"ADDED"`) || strings.Contains(body, `"ERROR"`) {
		t.Errorf("the watch showed %s", body)
	}
}

// beginning is a recorder that says when the first of the answer's body is written.
type beginning struct {
	*httptest.ResponseRecorder
	once  sync.Once
	begun chan struct{}
}

func (b *beginning) Write(p []byte) (int, error) {
	n, err := b.ResponseRecorder.Write(p)
	b.once.Do(func() { close(b.begun) })
	return n, err
}

// TestDefinitionDeletion: the objects go first, those with finalizers when they may. Admission, which would keep them, is not asked.
func TestDefinitionDeletion(t *testing.T) {
	s := customServer(t, func(c *Config) {
		c.Admission = admission.Chain{gate(func(a *admission.Attributes) error {
			if a.Operation == admission.Delete && a.Resource.Resource == "things" {
				return admission.Forbidden(a, errors.New("things are for ever"))
			}
			return nil
		})}
	})
	h := s.Handler()
	want(t, h, 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	want(t, h, 201, "POST", thingsPath, `{"apiVersion":"test.example.com/v1","kind":"Thing","metadata":{"name":"b","finalizers":["example.com/f"]}}`)
	want(t, h, 403, "DELETE", thingsPath+"/a", "")
	definition := benchDefinitions + "/things.test.example.com"
	if got := want(t, h, 200, "DELETE", definition, ""); at(got, "metadata", "finalizers", 0) != "customresourcecleanup.apiextensions.k8s.io" {
		t.Errorf("deleted %v", got)
	}
	want(t, h, 403, "POST", thingsPath, fmt.Sprintf(testThing, "c", "1"))
	for range 12000 {
		if call(t, h, "GET", thingsPath+"/a", "").Code == 404 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	want(t, h, 404, "GET", thingsPath+"/a", "")
	want(t, h, 200, "GET", definition, "")
	want(t, h, 200, "PATCH", thingsPath+"/b", `{"metadata":{"finalizers":null}}`, "Content-Type", "application/merge-patch+json")
	awaitCustom(t, s, "things", "test.example.com", false)
	want(t, h, 404, "GET", definition, "")
}

// TestCustomRestart: what was stored is served again by the next server.
func TestCustomRestart(t *testing.T) {
	engine := memory.New()
	defer func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	start := func(f func(t *testing.T, s *Server)) {
		cat, err := catalogue.New()
		if err != nil {
			t.Fatal(err)
		}
		st, err := store.New(t.Context(), engine, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := Register(st, cat); err != nil {
			t.Fatal(err)
		}
		if err := st.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Store: st, Catalogue: cat, Authenticator: anybody{}, Authorizer: admins{}})
		if err != nil {
			t.Fatal(err)
		}
		t.Run("run", func(t *testing.T) {
			runCustoms(t, s)
			f(t, s)
		})
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
	start(func(t *testing.T, s *Server) {
		want(t, s.Handler(), 201, "POST", benchDefinitions, definitionJSON("things", "Thing", "test.example.com", ""))
		awaitCustom(t, s, "things", "test.example.com", true)
		want(t, s.Handler(), 201, "POST", thingsPath, fmt.Sprintf(testThing, "a", "1"))
	})
	start(func(t *testing.T, s *Server) {
		if got := want(t, s.Handler(), 200, "GET", thingsPath+"/a", ""); at(got, "spec", "small") != "1" {
			t.Errorf("got %v", got)
		}
		if len(s.Customs().Namespaced()) != 1 {
			t.Error("the resource is not among those that have objects")
		}
	})
}
