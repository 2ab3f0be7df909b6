package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// definitions is where definitions of custom resources are.
func (c *customs) definitions() dynamic.ResourceInterface {
	return c.clients.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
}

// reviewer answers admission reviews.
func reviewer(decide func(r *http.Request, q *admissionv1.AdmissionRequest, a *admissionv1.AdmissionResponse)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		decide(r, review.Request, response)
		review.Request, review.Response = nil, response
		_ = json.NewEncoder(w).Encode(review) // who does not hear it asks again
	}
}

// TestConformanceHookedDefinitions: a webhook refuses definitions; another may neither change nor keep the configurations of webhooks.
func TestConformanceHookedDefinitions(t *testing.T) {
	c := newCustoms(t)
	url, bundle := c.webhook(reviewer(func(r *http.Request, q *admissionv1.AdmissionRequest, a *admissionv1.AdmissionResponse) {
		a.Allowed, a.Result = false, &metav1.Status{Message: "the " + q.Kind.Kind + " contains unwanted label"}
		if r.URL.Path == "/change" {
			kind := admissionv1.PatchTypeJSONPatch
			a.Allowed, a.PatchType, a.Patch = true, &kind, []byte(`[{"op":"add","path":"/metadata/annotations","value":{"changed":"yes"}}]`)
		}
	}))
	// The configurations concern only what has this test's label.
	hook := func(kind, name, path, group, resources, operations string) {
		t.Helper()
		c.apply(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %[1]sWebhookConfiguration
metadata: {name: %[2]s-%[3]s, labels: {e2e: %[3]s}}
webhooks:
- name: a.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  failurePolicy: Fail
  objectSelector: {matchLabels: {disallow: %[3]s}}
  clientConfig: {url: %[4]q, caBundle: %[5]s}
  rules: [{operations: [%[6]s], apiGroups: [%[7]q], apiVersions: ["*"], resources: [%[8]s]}]
`, kind, name, c.ns, url+path, bundle, operations, group, resources))
	}
	t.Cleanup(func() {
		if r := c.do(nil, "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "-l", "e2e="+c.ns); r.code != 0 {
			t.Error(r.err)
		}
	})
	hook("Validating", "definitions", "/deny", "apiextensions.k8s.io", "customresourcedefinitions", "CREATE")
	const version = "{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}"
	manifest := func(plural, labels string) string {
		return fmt.Sprintf("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %[1]s.%[2]s, labels: {group: %[2]s, %[3]s}}\nspec: {group: %[2]s, scope: Namespaced, names: {plural: %[1]s, kind: Kind%[1]s}, versions: [%[4]s]}\n", plural, c.group, labels, version)
	}
	c.refuses(manifest("bads", "disallow: "+c.ns), []string{`admission webhook "a.example.com" denied the request: the CustomResourceDefinition contains unwanted label`}, "create", "-f", "-")
	if _, err := c.definitions().Get(c.ctx, "bads."+c.group, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	c.feed(manifest("goods", "fine: sure"), "create", "-f", "-")
	c.await("crd/goods."+c.group, "condition=Established")

	// Configurations of webhooks are nobody's business.
	all := "validatingwebhookconfigurations, mutatingwebhookconfigurations"
	hook("Validating", "keep", "/deny", "admissionregistration.k8s.io", all, `"*"`)
	hook("Mutating", "change", "/change", "admissionregistration.k8s.io", all, `"*"`)
	for _, kind := range []string{"Validating", "Mutating"} {
		name := strings.ToLower(kind) + "-dummy-" + c.ns
		c.feed(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: %[1]sWebhookConfiguration
metadata: {name: %[2]s, labels: {disallow: %[3]s, e2e: %[3]s}}
webhooks: [{name: dummy.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://127.0.0.1:1/"}, rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [invalid]}]}]
`, kind, name, c.ns), "create", "-f", "-")
		like(t, c.kubectl("get", strings.ToLower(kind)+"webhookconfiguration", name, "-o", "jsonpath=<{.metadata.annotations.changed}>"), `<>`)
		c.kubectl("delete", strings.ToLower(kind)+"webhookconfiguration", name)
	}
}

// TestConformanceStoredVersions: objects of two versions while the version changes that is stored: they are read, listed and patched in both,
// a webhook changes them on their way in, whatever version is stored, and only what has been written again is stored anew.
func TestConformanceStoredVersions(t *testing.T) {
	c := newCustoms(t)
	heard := make(chan string, 100)
	url, bundle := c.webhook(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/convert" {
			convert(w, r)
			return
		}
		reviewer(func(_ *http.Request, q *admissionv1.AdmissionRequest, a *admissionv1.AdmissionResponse) {
			kind := admissionv1.PatchTypeJSONPatch
			a.PatchType, a.Patch = &kind, []byte(`[{"op":"add","path":"/mutation","value":"`+strings.ToLower(string(q.Operation))+" of "+q.Kind.Version+` "}]`)
			select {
			case heard <- fmt.Sprint(q.Operation, " ", q.Kind.Version, " ", q.RequestKind.Version):
			default: // nobody waits for more than this
			}
		})(w, r)
	})
	versions := func(stored string) string {
		out := ""
		for _, v := range []struct{ name, fields string }{{"v1", "hostPort: {type: string}"}, {"v2", "host: {type: string}, port: {type: string}"}} {
			out += fmt.Sprintf("  - {name: %s, served: true, storage: %v, schema: {openAPIV3Schema: {type: object, properties: {%s, mutation: {type: string}, more: {type: string}}}}}\n", v.name, v.name == stored, v.fields)
		}
		return out
	}
	conversion := fmt.Sprintf("  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: %q, caBundle: %s}}}", url+"/convert", bundle)
	c.define("ends", "End", conversion, versions("v1"))
	c.apply(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: ends-%[1]s}
webhooks:
- name: a.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  clientConfig: {url: %[2]q, caBundle: %[3]s}
  rules: [{operations: [CREATE, UPDATE], apiGroups: [%[4]q], apiVersions: [v1], resources: [ends]}]
`, c.ns, url+"/mutate", bundle, c.group))
	t.Cleanup(func() {
		if r := c.do(nil, "delete", "mutatingwebhookconfiguration", "ends-"+c.ns); r.code != 0 {
			t.Error(r.err)
		}
	})
	one, two := c.of("ends", "v1"), c.of("ends", "v2")
	show := func(o *unstructured.Unstructured, err error) string {
		t.Helper()
		fine(t, err)
		out := strings.TrimPrefix(o.GetAPIVersion(), c.group+"/")
		for _, field := range []string{"hostPort", "host", "port", "mutation", "more"} {
			if v, ok := o.Object[field]; ok {
				out += fmt.Sprintf(" %s=%v", field, v)
			}
		}
		return out
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	create := func(version, name, body string) (*unstructured.Unstructured, error) {
		return c.of("ends", version).Create(c.ctx, &unstructured.Unstructured{Object: *read[map[string]any](t, c.object("End", version, name, body))}, metav1.CreateOptions{})
	}
	// The webhook asks for v1 and gets it, in whatever version somebody speaks.
	want(show(create("v1", "old", "hostPort: h:1")), "v1 hostPort=h:1 mutation=create of v1 ")
	want(<-heard, "CREATE v1 v1")
	want(show(create("v2", "other", "host: i\nport: \"2\"")), "v2 host=i port=2 mutation=create of v1 ")
	want(<-heard, "CREATE v1 v2")

	const patch = `[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`
	_, err := c.definitions().Patch(c.ctx, "ends."+c.group, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	fine(t, err)
	c.says(`["v1","v2"]`, "get", "crd", "ends."+c.group, "-o", "jsonpath={.status.storedVersions}")
	// The old object is as it was, in both versions, and its own version is what it was.
	before, err := one.Get(c.ctx, "old", metav1.GetOptions{})
	want(show(before, err), "v1 hostPort=h:1 mutation=create of v1 ")
	want(show(two.Get(c.ctx, "old", metav1.GetOptions{})), "v2 host=h port=1 mutation=create of v1 ")
	want(show(one.Patch(c.ctx, "old", types.MergePatchType, []byte(`{"more":"new"}`), metav1.PatchOptions{})), "v1 hostPort=h:1 mutation=update of v1  more=new")
	want(<-heard, "UPDATE v1 v1")
	want(show(two.Patch(c.ctx, "other", types.MergePatchType, []byte(`{"port":"3"}`), metav1.PatchOptions{})), "v2 host=i port=3 mutation=update of v1 ")
	want(<-heard, "UPDATE v1 v2")
	want(show(two.Get(c.ctx, "old", metav1.GetOptions{})), "v2 host=h port=1 mutation=update of v1  more=new")
	want(show(create("v2", "new", "host: m\nport: \"9\"")), "v2 host=m port=9 mutation=create of v1 ")
	for version, all := range map[string]string{"v1": "new m:9, old h:1, other i:3", "v2": "new m9, old h1, other i3"} {
		list, err := c.of("ends", version).List(c.ctx, metav1.ListOptions{})
		fine(t, err)
		var got []string
		for _, o := range list.Items {
			text := ""
			for _, field := range []string{"hostPort", "host", "port"} {
				if v, ok := o.Object[field]; ok {
					text += fmt.Sprint(v)
				}
			}
			if o.GetAPIVersion() != c.group+"/"+version {
				t.Errorf("%s in a list of %s", o.GetAPIVersion(), version)
			}
			got = append(got, o.GetName()+" "+text)
		}
		want(strings.Join(got, ", "), all)
	}
	// Watchers of both versions see one change, each in their own words.
	list, err := one.List(c.ctx, metav1.ListOptions{})
	fine(t, err)
	_, err = two.Patch(c.ctx, "old", types.MergePatchType, []byte(`{"port":"7"}`), metav1.PatchOptions{})
	fine(t, err)
	for version, text := range map[string]string{"v1": "v1 hostPort=h:7 mutation=update of v1  more=new", "v2": "v2 host=h port=7 mutation=update of v1  more=new"} {
		w, err := c.of("ends", version).Watch(c.ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
		fine(t, err)
		e := <-w.ResultChan()
		w.Stop()
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			t.Fatalf("%v", e.Object)
		}
		want(show(o, nil), text)
	}
}
