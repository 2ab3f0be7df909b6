package webhook

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/request"
	calls "github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collection is a list of objects that can change.
type collection struct {
	items   []*store.Item
	changed int64
}

func (c *collection) Changed() int64 { return c.changed }
func (c *collection) List(context.Context, store.ListOptions) (store.List, error) {
	return store.List{Items: slices.Clone(c.items)}, nil
}

func (c *collection) put(objs ...store.Object) {
	for _, o := range objs {
		c.changed++
		item := &store.Item{Key: o.GetName(), Object: o, Revision: c.changed}
		i, found := slices.BinarySearchFunc(c.items, item, func(a, b *store.Item) int { return strings.Compare(a.Key, b.Key) })
		if found {
			c.items[i] = item
		} else {
			c.items = slices.Insert(c.items, i, item)
		}
	}
}

type namespaces map[string]map[string]string

func (n namespaces) Namespace(_ context.Context, name string) (*corev1.Namespace, error) {
	l, ok := n[name]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name)
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}}, nil
}

type everybody struct{}

func (everybody) Authorize(_ context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.User.GetName() == "root" {
		return request.Allow, "", nil
	}
	return request.NoOpinion, "", nil
}

type nowhere struct{}

func (nowhere) ResolveEndpoint(context.Context, string, string, int32) (string, error) {
	return "", errors.New("nowhere")
}

// room is a plugin's surroundings and a server that answers for all webhooks.
type room struct {
	cfg    Config
	config *collection
	url    string
	bundle []byte
	cat    *api.Catalogue

	mu     sync.Mutex
	asked  []string // paths
	review map[string]*admissionv1.AdmissionReview
	answer map[string]func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
}

func newRoom(t testing.TB) *room {
	t.Helper()
	r := &room{config: &collection{}, review: map[string]*admissionv1.AdmissionReview{}, answer: map[string]func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse{}}
	s := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	r.url = s.URL
	r.bundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	client := calls.New(nowhere{})
	t.Cleanup(func() { _ = client.Close() })
	r.cfg = Config{Client: client, Configurations: r.config, Namespaces: namespaces{"n": {"team": "a"}}, Authorizer: everybody{}}
	var err error
	if r.cat, err = catalogue.New(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *room) serve(w http.ResponseWriter, req *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.asked = append(r.asked, req.URL.Path)
	r.review[req.URL.Path] = review.DeepCopy()
	f := r.answer[req.URL.Path]
	r.mu.Unlock()
	answer := &admissionv1.AdmissionResponse{Allowed: true}
	if f != nil {
		answer = f(review.Request)
	}
	if answer == nil {
		fmt.Fprint(w, "nonsense")
		return
	}
	if answer.UID == "" {
		answer.UID = review.Request.UID
	}
	_ = json.NewEncoder(w).Encode(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer})
}

func (r *room) calls() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.asked = nil }()
	return strings.Join(r.asked, " ")
}

func patch(format string, args ...any) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Allowed: true, Patch: fmt.Appendf(nil, format, args...), PatchType: new(admissionv1.PatchTypeJSONPatch)}
	}
}

// webhooks makes a configuration of webhooks with these names, which are also their paths.
func (r *room) mutating(name string, change func(*admissionregistrationv1.MutatingWebhook), hooks ...string) *admissionregistrationv1.MutatingWebhookConfiguration {
	c := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, h := range hooks {
		w := admissionregistrationv1.MutatingWebhook{
			Name: h, ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: new(r.url + "/" + h), CABundle: r.bundle},
			Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"*"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}}}},
			NamespaceSelector: &metav1.LabelSelector{}, ObjectSelector: &metav1.LabelSelector{}, TimeoutSeconds: new(int32(10)),
			SideEffects: new(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			MatchPolicy: new(admissionregistrationv1.Equivalent), FailurePolicy: new(admissionregistrationv1.Fail),
		}
		if change != nil {
			change(&w)
		}
		c.Webhooks = append(c.Webhooks, w)
	}
	return c
}

func (r *room) validating(name string, change func(*admissionregistrationv1.MutatingWebhook), hooks ...string) *admissionregistrationv1.ValidatingWebhookConfiguration {
	c := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, w := range r.mutating(name, change, hooks...).Webhooks {
		c.Webhooks = append(c.Webhooks, admissionregistrationv1.ValidatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, TimeoutSeconds: w.TimeoutSeconds,
			SideEffects: w.SideEffects, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchPolicy: w.MatchPolicy, FailurePolicy: w.FailurePolicy, MatchConditions: w.MatchConditions,
		})
	}
	return c
}

// write makes the attributes of a write of obj, a ConfigMap or a Deployment.
func (r *room) write(obj runtime.Object, change ...func(*admission.Attributes)) (*admission.Attributes, *said) {
	s := &said{notes: map[string]string{}}
	a := &admission.Attributes{
		Operation: admission.Create, Namespace: "n", Name: "x", Object: obj, User: &user.DefaultInfo{Name: "root", Groups: []string{"g"}},
		Options: &metav1.CreateOptions{}, Warn: func(t string) { s.warnings = append(s.warnings, t) },
		Annotate: func(k, v string) { s.notes[k] = v },
	}
	gvk, resource := corev1.SchemeGroupVersion.WithKind("ConfigMap"), "configmaps"
	if _, ok := obj.(*appsv1.Deployment); ok {
		gvk, resource = appsv1.SchemeGroupVersion.WithKind("Deployment"), "deployments"
	}
	a.Kind, a.Resource = gvk, gvk.GroupVersion().WithResource(resource)
	if obj != nil {
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	}
	k, _, _ := r.cat.ByKind(gvk)
	a.Versions = admission.NewBuilt(r.cat, k, nil)
	for _, c := range change {
		c(a)
	}
	return a, s
}

type said struct {
	warnings []string
	notes    map[string]string
}

func configMap(data ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "n", Labels: map[string]string{"app": "a"}}, Data: map[string]string{"keep": "0"}}
	for i := 0; i+1 < len(data); i += 2 {
		c.Data[data[i]] = data[i+1]
	}
	return c
}

func TestMutation(t *testing.T) {
	r := newRoom(t)
	// In the order of the configurations' names, then in theirs; each sees what those before did.
	r.config.put(r.mutating("b", nil, "third"), r.mutating("a", nil, "first", "second"))
	r.answer["/first"] = patch(`[{"op":"add","path":"/data/one","value":"1"}]`)
	r.answer["/second"] = func(req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		var c corev1.ConfigMap
		if err := json.Unmarshal(req.Object.Raw, &c); err != nil || c.Data["one"] != "1" || c.Kind != "ConfigMap" || c.APIVersion != "v1" {
			return &admissionv1.AdmissionResponse{Result: &metav1.Status{Message: fmt.Sprint(c.Data, err)}}
		}
		out := patch(`[{"op":"add","path":"/data/two","value":"2"}]`)(req)
		out.Warnings, out.AuditAnnotations = []string{"mind"}, map[string]string{"k": "v"}
		return out
	}
	p := NewMutating(r.cfg)
	obj := configMap()
	a, s := r.write(obj)
	if err := (admission.Chain{p}).Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(obj.Data, map[string]string{"keep": "0", "one": "1", "two": "2"}) {
		t.Errorf("data %v", obj.Data)
	}
	if got := r.calls(); got != "/first /second /third" {
		t.Errorf("calls %q", got)
	}
	if !slices.Equal(s.warnings, []string{"mind"}) || s.notes["second/k"] != "v" || !strings.Contains(s.notes["mutation.webhook.admission.k8s.io/round_0_index_0"], `"mutated":true`) {
		t.Errorf("said %+v", s)
	}
	q := r.review["/third"].Request
	if q.Name != "x" || q.Namespace != "n" || q.Operation != "CREATE" || q.UserInfo.Username != "root" || q.Kind.Kind != "ConfigMap" || q.RequestResource.Resource != "configmaps" ||
		string(q.OldObject.Raw) != "null" && q.OldObject.Raw != nil || !strings.Contains(string(q.Options.Raw), `"kind":"CreateOptions"`) || *q.DryRun {
		t.Errorf("question %+v", q)
	}
}

func TestReinvocation(t *testing.T) {
	r := newRoom(t)
	again := func(w *admissionregistrationv1.MutatingWebhook) {
		w.ReinvocationPolicy = new(admissionregistrationv1.IfNeededReinvocationPolicy)
	}
	r.config.put(r.mutating("a", again, "early"), r.mutating("b", nil, "never"), r.mutating("c", again, "late"))
	r.answer["/late"] = patch(`[{"op":"add","path":"/data/late","value":"1"}]`)
	p := NewMutating(r.cfg)
	obj := configMap()
	a, _ := r.write(obj)
	if err := (admission.Chain{p}).Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	// What changed after "early" calls it once more; nothing changed after "late".
	if got := r.calls(); got != "/early /never /late /early" {
		t.Errorf("calls %q", got)
	}
	// A plugin that changes the object in its second run calls all again that may be.
	changer := mutator(func(a *admission.Attributes) {
		if a.SecondRun() {
			a.Object.(*corev1.ConfigMap).Data["built-in"] = "1"
		}
	})
	a, _ = r.write(configMap())
	if err := (admission.Chain{changer, p}).Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got := r.calls(); got != "/early /never /late /early /late" {
		t.Errorf("calls %q", got)
	}
}

type mutator func(*admission.Attributes)

func (f mutator) Admit(_ context.Context, a *admission.Attributes) error { f(a); return nil }

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(*admissionregistrationv1.MutatingWebhook)
		answer   func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse
		mutating bool
		write    func(*admission.Attributes)
		want     string // "" is no error
		code     int32
	}{
		{name: "allowed"},
		{name: "denied", answer: deny(nil), want: `admission webhook "hook" denied the request without explanation`, code: 400},
		{name: "denied with words", answer: deny(&metav1.Status{Message: "no", Code: 418, Reason: "Tea"}), want: `admission webhook "hook" denied the request: no`, code: 418},
		{name: "denied with a reason", answer: deny(&metav1.Status{Reason: "Tea", Code: 200}), want: `admission webhook "hook" denied the request: Tea`, code: 400},
		{name: "nonsense", answer: nonsense, want: `Internal error occurred: failed calling webhook "hook": failed to call webhook: couldn't get version/kind; json parse error: `, code: 500},
		{name: "nonsense is passed over", answer: nonsense, change: ignore},
		{name: "another uid", answer: func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			return &admissionv1.AdmissionResponse{UID: "x", Allowed: true}
		}, want: `expected response.uid=`, code: 500},
		{name: "a validating webhook patches", answer: patch(`[]`), want: "validating webhook may not return response.patch", code: 500},
		{name: "a patch of what there is not", mutating: true, answer: patch(`[{"op":"remove","path":"/nothing"}]`), want: "Internal error occurred: ", code: 500},
		{name: "a patch that is none", mutating: true, answer: patch(`{`), want: "received undecodable patch in webhook response", code: 500},
		{name: "an empty patch", mutating: true, answer: patch(`[]`)},
		{name: "a patch of an unknown type", mutating: true, answer: func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			a := patch(`[{"op":"add","path":"/data/a","value":"1"}]`)(r)
			a.PatchType = new(admissionv1.PatchType("Merge"))
			return a
		}, want: `unsupported patch type "Merge"`, code: 500},
		{name: "nobody there", change: func(w *admissionregistrationv1.MutatingWebhook) { w.ClientConfig.URL = new("https://127.0.0.1:1/x") },
			want: `failed calling webhook "hook": failed to call webhook: Post "https://127.0.0.1:1/x?timeout=10s": dial tcp 127.0.0.1:1: connect: connection refused`, code: 500},
		{name: "no endpoints", change: func(w *admissionregistrationv1.MutatingWebhook) {
			w.ClientConfig = admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: "n", Name: "s", Port: new(int32(443))}}
		}, want: `failed calling webhook "hook": failed to call webhook: Post "https://s.n.svc:443/?timeout=10s": nowhere`, code: 500},
		{name: "unknown reviews", change: func(w *admissionregistrationv1.MutatingWebhook) { w.AdmissionReviewVersions = []string{"v9"} },
			want: "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)", code: 500},
		{name: "v1beta1", change: func(w *admissionregistrationv1.MutatingWebhook) {
			w.AdmissionReviewVersions = []string{"v2", "v1beta1", "v1"}
		}},
		{name: "side effects on a dry run", change: func(w *admissionregistrationv1.MutatingWebhook) {
			w.SideEffects = new(admissionregistrationv1.SideEffectClassSome)
		}, write: func(a *admission.Attributes) { a.DryRun = true }, want: `admission webhook "hook" does not support dry run`, code: 400},
		{name: "a dry run", write: func(a *admission.Attributes) { a.DryRun = true }},
		{name: "an unknown namespace", change: func(w *admissionregistrationv1.MutatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, write: func(a *admission.Attributes) { a.Namespace = "m" }, want: `namespaces "m" not found`, code: 404},
		{name: "a condition that cannot be evaluated", change: condition("object.data.nothing == 'x'"), want: `configmaps "x" is forbidden: expression 'object.data.nothing == 'x'' resulted in error: no such key: nothing`, code: 403},
		{name: "a condition that cannot be evaluated, passed over", change: func(w *admissionregistrationv1.MutatingWebhook) {
			condition("object.data.nothing == 'x'")(w)
			ignore(w)
		}, answer: deny(nil)},
		{name: "a delete cannot be changed", mutating: true, answer: patch(`[{"op":"add","path":"/a","value":"1"}]`), write: func(a *admission.Attributes) {
			a.Operation, a.Object, a.OldObject = admission.Delete, nil, a.Object
		}, want: `admission webhook "hook" attempted to modify the object, which is not supported for this operation`, code: 500},
	} {
		for _, mutating := range []bool{false, true} {
			if tt.mutating && !mutating || strings.Contains(tt.name, "validating") && mutating {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", tt.name, mutating), func(t *testing.T) {
				r := newRoom(t)
				if tt.answer != nil {
					r.answer["/hook"] = tt.answer
				}
				a, _ := r.write(configMap())
				if tt.write != nil {
					tt.write(a)
				}
				var err error
				if mutating {
					r.config.put(r.mutating("c", tt.change, "hook"))
					err = admission.Chain{NewMutating(r.cfg)}.Admit(t.Context(), a)
				} else {
					r.config.put(r.validating("c", tt.change, "hook"))
					err = NewValidating(r.cfg).Validate(t.Context(), a)
				}
				if tt.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var s apierrors.APIStatus
				if !errors.As(err, &s) || !strings.Contains(err.Error(), tt.want) || s.Status().Code != tt.code {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func deny(s *metav1.Status) func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	return func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{Result: s.DeepCopy()}
	}
}

func nonsense(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil }

func ignore(w *admissionregistrationv1.MutatingWebhook) {
	w.FailurePolicy = new(admissionregistrationv1.Ignore)
}

func condition(expressions ...string) func(*admissionregistrationv1.MutatingWebhook) {
	return func(w *admissionregistrationv1.MutatingWebhook) {
		for i, e := range expressions {
			w.MatchConditions = append(w.MatchConditions, admissionregistrationv1.MatchCondition{Name: fmt.Sprint("c", i), Expression: e})
		}
	}
}

// TestWhoIsCalled says which writes concern a webhook.
func TestWhoIsCalled(t *testing.T) {
	type hook = admissionregistrationv1.MutatingWebhook
	rule := func(f func(r *admissionregistrationv1.RuleWithOperations)) func(*hook) {
		return func(w *hook) { f(&w.Rules[0]) }
	}
	deployment := func() runtime.Object {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "n"}}
	}
	for _, tt := range []struct {
		name   string
		change func(*hook)
		object runtime.Object
		write  func(*admission.Attributes)
		called bool
		kind   string
	}{
		{name: "all", called: true},
		{name: "another operation", change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.Operations[0] = "UPDATE" })},
		{name: "another group", change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIGroups = []string{"apps"} })},
		{name: "this group", change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIGroups = []string{"apps", ""} }), called: true},
		{name: "another resource", change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.Resources = []string{"secrets"} })},
		{name: "not the subresource", write: func(a *admission.Attributes) { a.Subresource = "status" }},
		{name: "the subresource", change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.Resources = []string{"*/status"} }),
			write: func(a *admission.Attributes) { a.Subresource = "status" }, called: true},
		{name: "in a namespace", change: rule(func(r *admissionregistrationv1.RuleWithOperations) {
			r.Scope = new(admissionregistrationv1.NamespacedScope)
		}), called: true},
		{name: "of the cluster", change: rule(func(r *admissionregistrationv1.RuleWithOperations) {
			r.Scope = new(admissionregistrationv1.ClusterScope)
		})},
		{name: "the namespace", change: func(w *hook) { w.NamespaceSelector.MatchLabels = map[string]string{"team": "a"} }, called: true},
		{name: "another namespace", change: func(w *hook) { w.NamespaceSelector.MatchLabels = map[string]string{"team": "b"} }},
		{name: "the object", change: func(w *hook) { w.ObjectSelector.MatchLabels = map[string]string{"app": "a"} }, called: true},
		{name: "another object", change: func(w *hook) { w.ObjectSelector.MatchLabels = map[string]string{"app": "b"} }},
		{name: "the old object", change: func(w *hook) { w.ObjectSelector.MatchLabels = map[string]string{"app": "b"} }, called: true, write: func(a *admission.Attributes) {
			old := configMap()
			old.Labels["app"] = "b"
			old.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
			a.Operation, a.OldObject = admission.Update, old
		}},
		{name: "another version", object: deployment(), change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIVersions = []string{"v1beta1"} }), called: true, kind: "apps/v1beta1"},
		{name: "another group of the same", object: deployment(), change: rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIGroups = []string{"extensions"} }), called: true, kind: "extensions/v1beta1"},
		{name: "another version, exactly", object: deployment(), change: func(w *hook) {
			w.Rules[0].APIVersions, w.MatchPolicy = []string{"v1beta1"}, new(admissionregistrationv1.Exact)
		}},
		{name: "a condition", change: condition("object.metadata.name == 'x'", "request.namespace == 'n'", "oldObject == null"), called: true},
		{name: "a condition that does not hold", change: condition("object.metadata.name == 'y'")},
		{name: "one that does not hold and one that cannot be evaluated", change: condition("object.data.nothing == 'x'", "false")},
		{name: "who may", change: condition("authorizer.group('').resource('pods').check('get').allowed()", "authorizer.requestResource.check('delete').allowed()"), called: true},
		{name: "who may not", change: condition("authorizer.group('').resource('pods').check('get').allowed()"), write: func(a *admission.Attributes) { a.User = &user.DefaultInfo{Name: "guest"} }},
		{name: "its own configuration", write: func(a *admission.Attributes) {
			a.Resource = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}
		}},
		{name: "a question", write: func(a *admission.Attributes) {
			a.Resource = schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoom(t)
			if tt.object == nil {
				tt.object = configMap()
			}
			a, _ := r.write(tt.object)
			if tt.write != nil {
				tt.write(a)
			}
			r.config.put(r.validating("c", tt.change, "hook"))
			if err := NewValidating(r.cfg).Validate(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if got := r.calls() != ""; got != tt.called {
				t.Fatalf("called: %v", got)
			}
			if tt.kind != "" {
				q := r.review["/hook"].Request
				var m metav1.TypeMeta
				if err := json.Unmarshal(q.Object.Raw, &m); err != nil || m.APIVersion != tt.kind || schema.GroupVersion(metav1.GroupVersion{Group: q.Kind.Group, Version: q.Kind.Version}).String() != tt.kind || q.RequestKind.Version != "v1" {
					t.Errorf("shown as %v, asked as %v", m, q.Kind)
				}
			}
		})
	}
}

// TestEffectAtOnce: the next request sees what was written.
func TestEffectAtOnce(t *testing.T) {
	r := newRoom(t)
	p := NewValidating(r.cfg)
	r.answer["/hook"] = deny(nil)
	a, _ := r.write(configMap())
	if err := p.Validate(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	c := r.validating("c", nil, "hook")
	r.config.put(c)
	if err := p.Validate(t.Context(), a); err == nil {
		t.Error("a new webhook has no effect")
	}
	c = c.DeepCopy()
	c.Webhooks[0].Rules[0].Operations[0] = "DELETE"
	r.config.put(c)
	if err := p.Validate(t.Context(), a); err != nil {
		t.Error(err)
	}
}

func TestTimeouts(t *testing.T) {
	for _, open := range []bool{false, true} {
		r := newRoom(t)
		release := make(chan struct{})
		r.answer["/hook"] = func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
			<-release
			return &admissionv1.AdmissionResponse{Allowed: true}
		}
		r.config.put(r.validating("c", func(w *admissionregistrationv1.MutatingWebhook) {
			w.TimeoutSeconds = new(int32(1))
			if open {
				ignore(w)
			}
		}, "hook"))
		a, _ := r.write(configMap())
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := NewValidating(r.cfg).Validate(ctx, a)
		cancel()
		close(release)
		if open != (err == nil) || err != nil && !strings.Contains(err.Error(), "context deadline exceeded") {
			t.Errorf("got %v", err)
		}
	}
}

// FuzzAnswers feeds hostile answers.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true}}`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":false,"status":{"code":-1,"message":"x"}}}`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"u","allowed":true,"patchType":"JSONPatch","patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiL2RhdGEvYSIsInZhbHVlIjoiYiJ9XQ=="}}`,
		`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","response":{"allowed":true,"patch":"W10="}}`,
	} {
		f.Add([]byte(s))
	}
	cat, err := catalogue.New()
	if err != nil {
		f.Fatal(err)
	}
	k, _, _ := cat.ByKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	h := &hook{name: "hook"}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, version := range []string{reviewV1, reviewV1Beta1} {
			got, err := readAnswer(data, "u", version, true)
			if err != nil {
				continue
			}
			obj := configMap("a", "b")
			obj.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
			a := &admission.Attributes{Object: obj, Kind: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Versions: admission.NewBuilt(cat, k, nil), Warn: func(string) {}}
			if err := h.told(a, got); err != nil {
				var s apierrors.APIStatus
				if !errors.As(err, &s) || s.Status().Code < 400 {
					t.Fatalf("a refusal with code %d: %v", s.Status().Code, err)
				}
				continue
			}
			if err := patched(a, got.patch); err == nil && a.Object.(*corev1.ConfigMap).Kind != "ConfigMap" {
				t.Fatalf("the object became a %q", a.Object.GetObjectKind().GroupVersionKind())
			}
		}
	})
}

// patched applies a patch as invoke does.
func patched(a *admission.Attributes, data []byte) error {
	p, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return err
	}
	d := admission.Door{Kind: a.Kind}
	e, err := encode(a, d.Kind)
	if err != nil {
		return err
	}
	_, err = apply(a, d, e.object, p)
	return err
}
