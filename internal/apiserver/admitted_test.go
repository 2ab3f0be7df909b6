package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/policy"
	admissionwebhook "github.com/celox/celox/internal/apiserver/admission/webhook"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/store"
)

// configured makes a server whose admission is what is configured in it: policies and webhooks.
func configured(t testing.TB) http.Handler {
	t.Helper()
	return newServer(t, func(c *Config) {
		reader := func(gr schema.GroupResource) (store.Reader, bool) {
			col, ok := c.Store.Collection(gr)
			return col, ok
		}
		objects := lookup.New(reader)
		client := webhook.New(webhook.NewServices(objects))
		t.Cleanup(func() { _ = client.Close() })
		collection := func(resource string) *store.Collection {
			col, ok := c.Store.Collection(schema.GroupResource{Group: "admissionregistration.k8s.io", Resource: resource})
			if !ok {
				t.Fatalf("no %s", resource)
			}
			return col
		}
		hooks := func(resource string) admissionwebhook.Config {
			return admissionwebhook.Config{Client: client, Configurations: collection(resource), Namespaces: objects, Authorizer: c.Authorizer}
		}
		policies := func(policies, bindings string) policy.Config {
			return policy.Config{
				Policies: collection(policies), Bindings: collection(bindings), Namespaces: objects, Authorizer: c.Authorizer,
				Kinds: policy.Built{Catalogue: c.Catalogue, Objects: reader},
			}
		}
		c.Admission = admission.Chain{
			policy.NewMutating(policies("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")),
			admissionwebhook.NewMutating(hooks("mutatingwebhookconfigurations")),
			policy.NewValidating(policies("validatingadmissionpolicies", "validatingadmissionpolicybindings")),
			admissionwebhook.NewValidating(hooks("validatingwebhookconfigurations")),
		}
	}).Handler()
}

// hookServer answers every review as answer says and remembers the questions.
type hookServer struct {
	url, bundle string

	mu    sync.Mutex
	asked []*admissionv1.AdmissionRequest // guarded by mu
}

func newHookServer(t testing.TB, answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *hookServer {
	t.Helper()
	h := &hookServer{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		h.mu.Lock()
		h.asked = append(h.asked, review.Request)
		h.mu.Unlock()
		review.Response = answer(review.Request)
		review.Response.UID = review.Request.UID
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	pemBytes := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	b, err := json.Marshal(pemBytes)
	if err != nil {
		t.Fatal(err)
	}
	h.url, h.bundle = s.URL, string(b)
	return h
}

func (h *hookServer) last(t *testing.T) *admissionv1.AdmissionRequest {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.asked) == 0 {
		t.Fatal("nobody was asked")
	}
	return h.asked[len(h.asked)-1]
}

func (h *hookServer) config(kind, rule string) string {
	return fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":%q,"metadata":{"name":"hooks"},"webhooks":[{"name":"hook.example.com","clientConfig":{"url":%q,"caBundle":%s},
		"rules":[%s],"sideEffects":"None","admissionReviewVersions":["v1"]}]}`, kind, h.url+"/hook", h.bundle, rule)
}

const registrations = "/apis/admissionregistration.k8s.io/v1/"

// TestMutatingWebhook: what a webhook adds is defaulted and validated like what a client sends, in the first request after its
// configuration was written.
func TestMutatingWebhook(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	h := newHookServer(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(
			`[{"op":"add","path":"/spec/initContainers","value":[{"name":"init","image":"i"}]}]`)}
	})
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations",
		h.config("MutatingWebhookConfiguration", `{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"]}`))
	pod := want(t, s, 201, "POST", "/api/v1/namespaces/a/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	if at(pod, "spec", "initContainers", 0, "name") != "init" || at(pod, "spec", "initContainers", 0, "terminationMessagePolicy") != "File" {
		t.Errorf("got %v", at(pod, "spec", "initContainers"))
	}
	if got := at(want(t, s, 200, "GET", "/api/v1/namespaces/a/pods/p", ""), "spec", "initContainers", 0, "name"); got != "init" {
		t.Errorf("stored %v", got)
	}
}

// TestRenamingWebhook: a conflict is one of the object that was asked for, whatever name a webhook gave it.
func TestRenamingWebhook(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	want(t, s, 201, "POST", "/api/v1/namespaces/a/configmaps", `{"metadata":{"name":"m"}}`)
	h := newHookServer(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(
			`[{"op":"replace","path":"/metadata/name","value":"other"},{"op":"replace","path":"/metadata/resourceVersion","value":"1"}]`)}
	})
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations",
		h.config("MutatingWebhookConfiguration", `{"operations":["UPDATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`))
	w := call(t, s, "PATCH", "/api/v1/namespaces/a/configmaps/m", `{"data":{"k":"v"}}`, "Content-Type", "application/merge-patch+json")
	if told := `Operation cannot be fulfilled on configmaps "m": ` + conflictText; w.Code != 409 || message(t, w) != told {
		t.Errorf("got %d %s, want 409 %s", w.Code, w.Body, told)
	}
}

// TestScaleWebhook: a webhook may change the Scale that a client writes.
func TestScaleWebhook(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	want(t, s, 201, "POST", "/apis/apps/v1/namespaces/a/deployments", `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	h := newHookServer(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(`[{"op":"replace","path":"/spec/replicas","value":3}]`)}
	})
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations",
		h.config("MutatingWebhookConfiguration", `{"operations":["UPDATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments/scale"]}`))
	got := want(t, s, 200, "PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":9}}`)
	if at(got, "spec", "replicas") != float64(3) {
		t.Errorf("got %v", got)
	}
	if q := h.last(t); q.Kind.Kind != "Scale" || q.SubResource != "scale" || q.Resource.Resource != "deployments" {
		t.Errorf("asked %+v", q)
	}
}

// TestValidatingWebhook refuses each verb, and never its own configuration.
func TestValidatingWebhook(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	const maps = "/api/v1/namespaces/a/configmaps"
	want(t, s, 201, "POST", maps, `{"metadata":{"name":"m"},"data":{"k":"v"}}`)
	h := newHookServer(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Warnings: []string{"mind"}}
	})
	config := h.config("ValidatingWebhookConfiguration", `{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*/*"]}`)
	want(t, s, 201, "POST", registrations+"validatingwebhookconfigurations", config)
	const refusal = `admission webhook "hook.example.com" denied the request without explanation`
	for _, tt := range []struct {
		method, path, body, contentType string
		operation                       admissionv1.Operation
		object, old                     bool
	}{
		{"POST", maps, `{"metadata":{"name":"n"}}`, "application/json", "CREATE", true, false},
		{"PUT", maps + "/m", `{"metadata":{"name":"m"},"data":{"k":"w"}}`, "application/json", "UPDATE", true, true},
		{"PATCH", maps + "/m", `{"data":{"k":"w"}}`, "application/merge-patch+json", "UPDATE", true, true},
		{"PATCH", maps + "/fresh?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"fresh"}}`, "application/apply-patch+yaml", "CREATE", true, false},
		{"DELETE", maps + "/m", "", "", "DELETE", false, true},
		{"DELETE", maps, "", "", "DELETE", false, true},
		{"PUT", "/api/v1/namespaces/a/finalize", `{"metadata":{"name":"a"}}`, "application/json", "UPDATE", true, true},
		{"POST", maps, `{"metadata":{"generateName":"n-"}}`, "application/json", "CREATE", true, false},
	} {
		w := call(t, s, tt.method, tt.path, tt.body, "Content-Type", tt.contentType)
		if w.Code != 400 || !strings.Contains(w.Body.String(), strings.ReplaceAll(refusal, `"`, `\"`)) || !strings.Contains(w.Header().Get("Warning"), "mind") {
			t.Errorf("%s %s: %d %s %v", tt.method, tt.path, w.Code, w.Body, w.Header())
			continue
		}
		q := h.last(t)
		isNull := func(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }
		if q.Operation != tt.operation || isNull(q.Object.Raw) == tt.object || isNull(q.OldObject.Raw) == tt.old || q.Namespace != "a" || (q.Name == "") != (tt.method == "DELETE" && tt.path == maps) {
			t.Errorf("%s %s: asked %s of %s, object %s, old %s", tt.method, tt.path, q.Operation, q.Name, q.Object.Raw, q.OldObject.Raw)
		}
	}
	want(t, s, 200, "DELETE", registrations+"validatingwebhookconfigurations/hooks", "")
	want(t, s, 200, "DELETE", maps+"/m", "")
}

// TestConnect: streams are admitted with their options.
func TestConnect(t *testing.T) {
	seen := make(chan *admission.Attributes, 1)
	var query, path string
	s := newServer(t, func(c *Config) {
		c.Connect = connectFunc(func(w http.ResponseWriter, r *http.Request) {
			query, path = r.URL.RawQuery, r.URL.EscapedPath()
			w.WriteHeader(http.StatusOK)
		})
		c.Admission = admission.Chain{gate(func(a *admission.Attributes) error {
			seen <- a
			if o, ok := a.Object.(*corev1.PodExecOptions); ok {
				o.Command = append(o.Command, "more")
			}
			if o, ok := a.Object.(*corev1.ServiceProxyOptions); ok {
				o.Path = "elsewhere"
			}
			if _, ok := a.Object.(*corev1.PodAttachOptions); ok {
				return admission.Forbidden(a, errors.New("no"))
			}
			return nil
		})}
	}).Handler()
	const pod = "/api/v1/namespaces/a/pods/p/"
	if w := call(t, s, "POST", pod+"exec?command=a&stdin=true&container=c", ""); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	a := <-seen
	if a.Operation != admission.Connect || a.Kind.Kind != "PodExecOptions" || a.Name != "p" || a.Namespace != "a" || a.Subresource != "exec" || query != "command=a&command=more&container=c&stdin=true" {
		t.Errorf("admitted %+v, went on with %s", a, query)
	}
	if w := call(t, s, "POST", pod+"attach", ""); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	<-seen
	if w := call(t, s, "GET", pod+"log?follow=true", ""); w.Code != 200 || len(seen) > 0 {
		t.Errorf("logs: %d %s", w.Code, w.Body)
	}
	if w := call(t, s, "GET", pod+"proxy/a/b?c=d", ""); w.Code != 200 || query != "c=d" {
		t.Errorf("%d %s", w.Code, query)
	}
	if o, ok := (<-seen).Object.(*corev1.PodProxyOptions); !ok || o.Path != "/a/b" || path != pod+"proxy/a/b" {
		t.Errorf("admitted %+v, went on to %s", o, path)
	}
	if w := call(t, s, "GET", "/api/v1/namespaces/a/services/s/proxy/a%20b/c?d=e", ""); w.Code != 200 || query != "d=e" || path != "/api/v1/namespaces/a/services/s/proxy/elsewhere" {
		t.Errorf("%d, went on to %s with %s", w.Code, path, query)
	}
	<-seen
}

// TestDisorderedManagedFields: a webhook that breaks managed fields has no effect on them, and the client hears of it.
func TestDisorderedManagedFields(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	h := newHookServer(t, func(q *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		patch := `[{"op":"replace","path":"/metadata/managedFields/0/fieldsType","value":"FieldsV9"},{"op":"add","path":"/data","value":{"a":"b"}}]`
		if q.Name == "tidy" {
			patch = `[{"op":"replace","path":"/metadata/managedFields/0/manager","value":"somebody"}]`
		}
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch), Patch: []byte(patch)}
	})
	want(t, s, 201, "POST", registrations+"mutatingwebhookconfigurations",
		h.config("MutatingWebhookConfiguration", `{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`))
	w := call(t, s, "POST", "/api/v1/namespaces/a/configmaps?fieldManager=me", `{"metadata":{"name":"m"},"data":{"k":"v"}}`)
	if w.Code != 201 || !strings.Contains(w.Header().Get("Warning"), "managedFields was in an invalid state after admission") {
		t.Errorf("%d, warning %q", w.Code, w.Header().Get("Warning"))
	}
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if at(got, "metadata", "managedFields", 0, "fieldsType") != "FieldsV1" || at(got, "metadata", "managedFields", 0, "manager") != "me" || at(got, "data", "a") != "b" {
		t.Errorf("created %v", got)
	}
	got = want(t, s, 201, "POST", "/api/v1/namespaces/a/configmaps?fieldManager=me", `{"metadata":{"name":"tidy"},"data":{"k":"v"}}`)
	if at(got, "metadata", "managedFields", 0, "manager") != "somebody" {
		t.Errorf("created %v", got)
	}
}

// TestStrictPatchPolicy: a JSON patch of a policy that adds a field that there is none of fails, as upstream; it is not dropped.
func TestStrictPatchPolicy(t *testing.T) {
	s := configured(t)
	want(t, s, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"a"}}`)
	want(t, s, 201, "POST", registrations+"mutatingadmissionpolicies", `{"metadata":{"name":"p"},"spec":{"reinvocationPolicy":"Never","matchConstraints":{"resourceRules":[
		{"operations":["CREATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}]},
		"mutations":[{"patchType":"JSONPatch","jsonPatch":{"expression":"[JSONPatch{op: 'add', path: '/' + object.metadata.name, value: {'a': 'b'}}]"}}]}}`)
	want(t, s, 201, "POST", registrations+"mutatingadmissionpolicybindings", `{"metadata":{"name":"b"},"spec":{"policyName":"p"}}`)
	const maps = "/api/v1/namespaces/a/configmaps"
	if got := want(t, s, 201, "POST", maps, `{"metadata":{"name":"data"}}`); at(got, "data", "a") != "b" {
		t.Errorf("created %v", got)
	}
	got := want(t, s, 500, "POST", maps, `{"metadata":{"name":"nosuch"}}`)
	if at(got, "message") != `Internal error occurred: strict decoding error: unknown field "nosuch"` {
		t.Errorf("told %v", got)
	}
}

type connectFunc func(http.ResponseWriter, *http.Request)

func (f connectFunc) Connect(w http.ResponseWriter, r *http.Request, _ request.Info) error {
	f(w, r)
	return nil
}

type gate func(*admission.Attributes) error

func (f gate) Admit(_ context.Context, a *admission.Attributes) error { return f(a) }

// BenchmarkAdmission is the create of a ConfigMap with nothing configured, with 50 webhooks and 50 policies about other things, and
// with one policy that is about it.
func BenchmarkAdmission(b *testing.B) {
	other := func(i int) (name, rule string) {
		return fmt.Sprintf("other-%d", i), `{"operations":["CREATE","UPDATE"],"apiGroups":["apps"],"apiVersions":["v1"],"resources":["deployments"]}`
	}
	add := func(h http.Handler, name, rule, expression string) {
		do(b, h, 201, "POST", registrations+"validatingadmissionpolicies", jsonType, jsonType, fmt.Sprintf(
			`{"metadata":{"name":%q},"spec":{"matchConstraints":{"resourceRules":[%s]},"validations":[{"expression":%q}]}}`, name, rule, expression))
		do(b, h, 201, "POST", registrations+"validatingadmissionpolicybindings", jsonType, jsonType, fmt.Sprintf(
			`{"metadata":{"name":%q},"spec":{"policyName":%q,"validationActions":["Deny"]}}`, name, name))
	}
	const mine = `{"operations":["CREATE","UPDATE"],"apiGroups":[""],"apiVersions":["v1"],"resources":["configmaps"]}`
	for _, tt := range []struct {
		name string
		make func(h http.Handler)
	}{
		{"nothing", func(http.Handler) {}},
		{"others", func(h http.Handler) {
			for i := range 50 {
				name, rule := other(i)
				add(h, name, rule, "object.spec.replicas > 1")
				do(b, h, 201, "POST", registrations+"validatingwebhookconfigurations", jsonType, jsonType, fmt.Sprintf(
					`{"metadata":{"name":%q},"webhooks":[{"name":"a.b.c","clientConfig":{"url":"https://127.0.0.1:1/"},"rules":[%s],"sideEffects":"None","admissionReviewVersions":["v1"]}]}`, name, rule))
			}
		}},
		{"one", func(h http.Handler) {
			add(h, "mine", mine, "object.metadata.name.startsWith('c') && (!has(object.data.small) || object.data.small == '0') && size(object.data) < 10")
		}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			h := configured(b)
			do(b, h, 201, "POST", "/api/v1/namespaces", jsonType, jsonType, `{"metadata":{"name":"bench"}}`)
			tt.make(h)
			n := 0
			defer cpu(b)()
			for b.Loop() {
				n++
				do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON(fmt.Sprint("c", n), "0"))
			}
		})
	}
}
