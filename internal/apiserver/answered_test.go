package apiserver

import (
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/custom"
)

const (
	tableOf   = "application/json;as=Table;v=v1;g=meta.k8s.io"
	partialOf = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	mergeType = "application/merge-patch+json"
)

// TestAnswersOfSubresources: what a client takes is asked before anything else, at each door in its own way.
func TestAnswersOfSubresources(t *testing.T) {
	connected := false
	h := newServer(t, func(c *Config) {
		c.Connect = connectFunc(func(w http.ResponseWriter, _ *http.Request) { connected = true; w.WriteHeader(http.StatusOK) })
	}).Handler()
	const pods = "/api/v1/namespaces/default/pods/none/"
	const only, routed = "only the following media types are accepted: application/json, ", "406: Not Acceptable\n\nAvailable representations: "
	for _, c := range []struct {
		method, path, accept string
		code                 int
		told                 string
	}{
		{"GET", pods + "log", "text/html", 406, routed + "text/plain, application/json"},
		{"GET", pods + "log", "text/plain", 406, only},
		{"GET", pods + "log", tableOf, 406, only},
		{"GET", pods + "log", partialOf, 404, `pods "none" not found`},
		{"POST", pods + "eviction", "text/plain", 406, routed + "application/json"},
		{"POST", pods + "eviction", tableOf, 406, only},
		{"POST", pods + "binding", tableOf, 406, only},
		{"POST", "/api/v1/namespaces/default/bindings", "text/plain", 406, routed + "application/json"},
		{"GET", pods + "resize", tableOf, 406, only},
		{"GET", pods + "ephemeralcontainers", tableOf, 406, only},
		{"GET", pods + "status", tableOf, 404, `pods "none" not found`},
		{"GET", "/apis/apiregistration.k8s.io/v1/apiservices/none/status", tableOf, 406, only},
		{"GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests/none/approval", tableOf, 406, only},
		{"GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests/none/status", tableOf, 404, "not found"},
	} {
		got := want(t, h, c.code, c.method, c.path, "", "Accept", c.accept)
		if message, _ := got["message"].(string); !strings.Contains(message, c.told) {
			t.Errorf("%s %s as %s: %v", c.method, c.path, c.accept, got)
		}
	}
	if connected {
		t.Error("a refused request was handed on")
	}
	if w := call(t, h, "GET", "/api/v1/namespaces/default/pods/p/log", "", "Accept", "*/*"); w.Code != 200 || !connected {
		t.Errorf("a log for everybody: %d", w.Code)
	}
	if w := call(t, h, "GET", "/api/v1/componentstatuses/x", "", "Accept", "text/plain"); w.Code != 406 || w.Header().Get("Warning") != "" {
		t.Errorf("nobody is warned of what is not served: %d %v", w.Code, w.Header())
	}
}

// TestOddSegments: names that nothing can have, and namespaces and names that are empty.
func TestOddSegments(t *testing.T) {
	h := newServer(t).Handler()
	const maps = "/api/v1/namespaces/default/configmaps"
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`
	want(t, h, 201, "POST", maps, body)
	for _, c := range []struct {
		method, path string
		code         int
		told         string
	}{
		{"GET", maps + "/..", 400, `Name parameter invalid: "..": may not be '..'`},
		{"DELETE", maps + "/.", 400, `Name parameter invalid: ".": may not be '.'`},
		{"PATCH", maps + "/a%252Fb", 400, `Name parameter invalid: "a%2Fb": may not contain '%'`},
		{"GET", "/api/v1/nodes/%25/status", 400, `Name parameter invalid: "%": may not contain '%'`},
		{"GET", "/api/v1/namespaces/default/pods/../log", 400, `Name parameter invalid: "..": may not be '..'`},
		{"GET", "/api/v1/nodes//status", 400, "name must be provided"},
		{"DELETE", "/api/v1/nodes//status", 405, "the server does not allow this method on the requested resource"},
		{"GET", "/api/v1/namespaces//pods//log", 400, "name must be provided"},
		{"GET", "/api/v1/namespaces//configmaps/a", 400, "Namespace parameter required."},
		{"DELETE", "/api/v1/namespaces//configmaps", 400, "Namespace parameter required."},
		{"GET", "/api/v1/namespaces//nodes", 404, "the server could not find the requested resource"},
		{"GET", "/api/v1/namespaces/default/pods/x//log", 404, "the server could not find the requested resource"},
		{"GET", "/api/v1//nodes", 404, "the server could not find the requested resource"},
	} {
		header, sent := []string{}, ""
		if c.method == "PATCH" {
			header, sent = []string{"Content-Type", mergeType}, "{}"
		}
		got := want(t, h, c.code, c.method, c.path, sent, header...)
		if got["message"] != c.told {
			t.Errorf("%s %s: %v", c.method, c.path, got)
		}
	}
	if got := want(t, h, 200, "GET", "/api/v1/namespaces//configmaps", ""); at(got, "items", 0, "metadata", "name") != "a" {
		t.Errorf("all namespaces have %v", got)
	}
	for _, p := range []string{"/apis//", "/apis//v1/pods", "/apis//apps/v1"} {
		if w := call(t, h, "GET", p, ""); w.Code != 404 || w.Body.String() != "404 page not found\n" {
			t.Errorf("%s: %d %s", p, w.Code, w.Body)
		}
	}
	want(t, h, 200, "GET", "/version//", "")
}

// TestProxyPath: what is behind a proxy may have any path.
func TestProxyPath(t *testing.T) {
	path := ""
	h := newServer(t, func(c *Config) {
		c.Connect = connectFunc(func(w http.ResponseWriter, r *http.Request) { path = r.URL.Path; w.WriteHeader(http.StatusOK) })
	}).Handler()
	if w := call(t, h, "GET", "/api/v1/nodes/x/proxy//y/../z//", ""); w.Code != 200 || path != "/api/v1/nodes/x/proxy//y/../z//" {
		t.Errorf("%d %s", w.Code, path)
	}
}

// TestCollectionAdmission: admission is asked for each object of a collection, without its name, with the options that the client sent.
func TestCollectionAdmission(t *testing.T) {
	var seen []*admission.Attributes
	h := newServer(t, func(c *Config) {
		c.Admission = admission.Chain{gate(func(a *admission.Attributes) error {
			if a.Operation == admission.Delete {
				seen = append(seen, a)
			}
			return nil
		})}
	}).Handler()
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, name := range []string{"a", "b"} {
		want(t, h, 201, "POST", maps, `{"metadata":{"name":"`+name+`"}}`)
	}
	want(t, h, 200, "DELETE", maps, `{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Background"}`)
	if len(seen) != 2 {
		t.Fatalf("asked %d times", len(seen))
	}
	for i, a := range seen {
		o, ok := a.Options.(*metav1.DeleteOptions)
		if !ok {
			t.Fatalf("options are %T", a.Options)
		}
		old, ok := a.OldObject.(interface{ GetName() string })
		if a.Name != "" || !ok || old.GetName() != []string{"a", "b"}[i] || o.Preconditions != nil || o.PropagationPolicy == nil || *o.PropagationPolicy != "Background" {
			t.Errorf("shown %q, %v, %+v", a.Name, a.OldObject, o)
		}
	}
}

// TestUnspeakableWarnings: what can't be in a header is left out.
func TestUnspeakableWarnings(t *testing.T) {
	h := newServer(t, func(c *Config) {
		c.Admission = admission.Chain{gate(func(a *admission.Attributes) error {
			for _, text := range []string{"two\nlines", "a\ttab", "\u0085", "plain \"ä\""} {
				a.Warn(text)
			}
			return nil
		})}
	}).Handler()
	w := call(t, h, "POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"a"}}`)
	if got := w.Header()["Warning"]; w.Code != 201 || len(got) != 1 || got[0] != `299 - "plain \"ä\""` {
		t.Errorf("%d %q", w.Code, got)
	}
}

// TestMutatedSystemFields: what a webhook says of the end of an object holds; of its identity and its link it says nothing.
func TestMutatedSystemFields(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	h := newHookServer(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(
			`[{"op":"add","path":"/metadata/deletionTimestamp","value":"2020-01-01T00:00:00Z"},{"op":"add","path":"/metadata/deletionGracePeriodSeconds","value":0},
			{"op":"add","path":"/metadata/selfLink","value":"x"},{"op":"add","path":"/metadata/uid","value":"y"}]`)}
	})
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations",
		h.config("MutatingWebhookConfiguration", `{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`))
	const maps = "/api/v1/namespaces/a/configmaps"
	got := want(t, s, 201, "POST", maps, `{"metadata":{"name":"c"}}`)
	if m := at(got, "metadata"); at(m, "deletionTimestamp") != "2020-01-01T00:00:00Z" || at(m, "deletionGracePeriodSeconds") != 0.0 || at(m, "selfLink") != nil || at(m, "uid") == "y" {
		t.Errorf("made %v, asked %d", got, len(h.asked))
	}
	want(t, s, 200, "PATCH", maps+"/c", `{"data":{"a":"b"}}`, "Content-Type", mergeType) // it has no finalizers: its next change is its end
	want(t, s, 404, "GET", maps+"/c", "")
}

// TestEmptyItems: an empty list within a list that has one owner is a change, though nobody can see it.
func TestEmptyItems(t *testing.T) {
	h := newServer(t).Handler()
	const path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
	want(t, h, 201, "POST", path+"?fieldManager=one", `{"metadata":{"name":"i"},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":1}}},"tls":[{}]}}`)
	got := want(t, h, 200, "PATCH", path+"/i?fieldManager=two", `{"spec":{"tls":[{"hosts":[]}]}}`, "Content-Type", mergeType)
	owners := map[any]bool{}
	for i := range 2 {
		e := at(got, "metadata", "managedFields", i)
		owners[at(e, "manager")] = at(e, "fieldsV1", "f:spec", "f:tls") != nil
	}
	if owners["one"] || !owners["two"] {
		t.Errorf("owned by %v", owners)
	}
}

// TestOtherKindOfCustomObject: an update is looked at after its version; a status is taken whatever it comes with.
func TestOtherKindOfCustomObject(t *testing.T) {
	h := customServer(t).Handler()
	made := want(t, h, 201, "POST", thingsPath, `{"apiVersion":"test.example.com/v1","kind":"Thing","metadata":{"name":"a"}}`)
	version, _ := at(made, "metadata", "resourceVersion").(string)
	other := func(meta string) string {
		return `{"apiVersion":"test.example.com/v1","kind":"Other","metadata":{"name":"a"` + meta + `}}`
	}
	const kind = `Other.test.example.com "a" is invalid: kind: Invalid value: "Other": must be Thing`
	for _, c := range []struct {
		method, path, body string
		code               int
		told               string
	}{
		{"POST", thingsPath, other(""), 422, kind},
		{"PUT", thingsPath + "/a", other(""), 422, `things.test.example.com "a" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update`},
		{"PUT", thingsPath + "/a", other(`,"resourceVersion":"1"`), 409, ""},
		{"PUT", thingsPath + "/a", other(`,"resourceVersion":"` + version + `"`), 422, kind},
		{"POST", thingsPath, `{"apiVersion":null,"kind":"Thing","metadata":{"name":"b"}}`, 400,
			`Thing in version "" cannot be handled as a Thing: .apiVersion accessor error: <nil> is of the type <nil>, expected string`},
	} {
		if got := want(t, h, c.code, c.method, c.path, c.body); c.told != "" && got["message"] != c.told {
			t.Errorf("%s %s: %v", c.method, c.body, got["message"])
		}
	}
	if got := want(t, h, 422, "PATCH", thingsPath+"/a", `{"kind":"Other"}`, "Content-Type", mergeType); got["message"] != kind {
		t.Errorf("patched: %v", got["message"])
	}
}

// TestMutatedKind: admission can't make a custom object one of another kind.
func TestMutatedKind(t *testing.T) {
	h := customServer(t, func(c *Config) {
		c.Admission = admission.Chain{gate(func(a *admission.Attributes) error {
			if o, ok := a.Object.(*custom.Object); ok {
				o.Kind = "Other"
			}
			return nil
		})}
	}).Handler()
	got := want(t, h, 422, "POST", thingsPath, `{"apiVersion":"test.example.com/v1","kind":"Thing","metadata":{"name":"a"}}`)
	if got["message"] != `Other.test.example.com "a" is invalid: kind: Invalid value: "Other": must be Thing` {
		t.Errorf("told %v", got["message"])
	}
	want(t, h, 404, "GET", thingsPath+"/a", "")
}

// TestScaleOfAnotherVersion: whose Scale it is is asked before how new it is.
func TestScaleOfAnotherVersion(t *testing.T) {
	h := newServer(t).Handler()
	const path = "/apis/apps/v1/namespaces/default/deployments"
	want(t, h, 201, "POST", path, `{"metadata":{"name":"d"},"spec":{"replicas":0,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	got := want(t, h, 409, "PATCH", path+"/d/scale", `{"metadata":{"uid":"x","resourceVersion":"1"},"spec":{"replicas":1}}`, "Content-Type", mergeType)
	if message, _ := got["message"].(string); !strings.Contains(message, "Precondition failed: UID in precondition: x") {
		t.Errorf("told %v", got)
	}
}
