package e2e

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// customs is a stage with a group of custom resources of its own.
type customs struct {
	*stage
	clients dynamic.Interface
	group   string
}

func newCustoms(t *testing.T) *customs {
	t.Helper()
	s := newStage(t)
	config, err := s.m.RESTConfig()
	fine(t, err)
	clients, err := dynamic.NewForConfig(config)
	fine(t, err)
	c := &customs{s, clients, s.ns + ".example.com"}
	t.Cleanup(func() {
		if r := s.do(nil, "delete", "crd", "--wait=false", "-l", "group="+c.group); r.code != 0 {
			t.Error(r.err)
		}
	})
	return c
}

// define makes a definition with these versions and waits until it is served.
func (c *customs) define(plural, kind, more, versions string) {
	c.t.Helper()
	c.apply(fmt.Sprintf("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %[1]s.%[3]s, labels: {group: %[3]s}}\nspec:\n  group: %[3]s\n  scope: Namespaced\n  names: {plural: %[1]s, kind: %[2]s}\n%[4]s\n  versions:\n%[5]s", plural, kind, c.group, more, versions))
	c.await("crd/"+plural+"."+c.group, "condition=Established")
}

func (c *customs) of(plural, version string) dynamic.ResourceInterface {
	return c.clients.Resource(schema.GroupVersionResource{Group: c.group, Version: version, Resource: plural}).Namespace(c.ns)
}

// object is a custom object's YAML.
func (c *customs) object(kind, version, name, body string) string {
	return fmt.Sprintf("apiVersion: %s/%s\nkind: %s\nmetadata: {name: %s}\n%s\n", c.group, version, kind, name, body)
}

// refuses feeds kubectl what the server has to refuse with these words.
func (c *customs) refuses(manifest string, words []string, args ...string) {
	c.t.Helper()
	r := c.do(strings.NewReader(manifest), args...)
	if r.code == 0 {
		c.t.Errorf("kubectl %v succeeded with\n%s", args, manifest)
	}
	has(c.t, r.err, words...)
}

// TestConformanceCustomSchemas: what a schema allows is created and applied, what it does not is refused; kubectl explains it.
func TestConformanceCustomSchemas(t *testing.T) {
	c := newCustoms(t)
	version := func(name, schema string) string {
		return fmt.Sprintf("  - name: %s\n    served: true\n    storage: true\n    schema:\n      openAPIV3Schema: {%s}", name, schema)
	}
	c.define("foos", "Foo", "", version("v1", `description: Foo CRD for Testing, type: object, properties: {spec: {type: object, description: Specification of Foo, properties: {bars: {description: List of Bars and their specs., type: array, items: {type: object, required: [name], properties: {
        name: {description: Name of Bar., type: string}, age: {description: Age of Bar., type: integer, minimum: 1}, feeling: {type: string, enum: [Great, Down]}, bazs: {description: List of Bazs., items: {type: string}, type: array}}}}}}}`))
	c.define("roots", "Root", "", version("v1", `type: object, x-kubernetes-preserve-unknown-fields: true`))
	c.define("nests", "Nest", "", version("v1", `description: Nested, type: object, properties: {spec: {description: Specification of Nest, type: object, x-kubernetes-preserve-unknown-fields: true, properties: {dummy: {type: string}}}, embedded: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}`))

	good := c.object("Foo", "v1", "good", "spec: {bars: [{name: test-bar, age: 3, feeling: Great, bazs: [a]}]}")
	c.apply(good)
	like(t, c.apply(good), `foo\.\S+/good unchanged`)
	c.feed(good, "replace", "-f", "-")
	for _, verb := range []string{"create", "apply"} {
		c.refuses(c.object("Foo", "v1", "bad", "spec: {bars: [{name: test-bar}], foo: true}"), []string{`strict decoding error: unknown field "spec.foo"`}, verb, "-f", "-")
		c.refuses(c.object("Foo", "v1", "bad", "spec: {bars: [{age: 10}]}"), []string{"spec.bars[0].name", "Required value"}, verb, "-f", "-")
		c.refuses(c.object("Foo", "v1", "bad", "spec: {bars: [{name: x, age: 0, feeling: Bad}]}"), []string{"spec.bars[0].age", "should be greater than or equal to 1", `spec.bars[0].feeling: Unsupported value: "Bad"`}, verb, "-f", "-")
		c.refuses(c.object("Nest", "v1", "bad", "embedded: {apiVersion: v1, kind: Pod, metadata: {name: x, unknown: true}}"), []string{`unknown field "embedded.metadata.unknown"`}, verb, "-f", "-")
		c.refuses(strings.Replace(c.object("Root", "v1", "bad", "spec: {}"), "{name: bad}", "{name: bad, unknown: true}", 1), []string{`unknown field "metadata.unknown"`}, verb, "-f", "-")
	}
	c.refuses(strings.Replace(podManifest("p", "true"), "spec:", "spec:\n  unknownField: 1", 1), []string{`strict decoding error: unknown field "spec.unknownField"`}, "create", "-f", "-")
	c.apply(c.object("Root", "v1", "any", "anything: {goes: [1, here]}") + "---\n" + c.object("Nest", "v1", "any", "spec: {dummy: x, and: {more: 1}}\nembedded: {apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {whatever: 1}}"))
	like(t, c.kubectl("get", "roots."+c.group+"/any", "nests."+c.group+"/any", "-o", `jsonpath={range .items[*]}{.anything.goes[1]}{.spec.and.more}{.embedded.spec.whatever}{"\n"}{end}`), `here`, `11`)

	contains(t, c.kubectl("explain", "foos."+c.group), `KIND: Foo`, `VERSION: v1`, `DESCRIPTION:`, `Foo CRD for Testing`, `FIELDS:`, `apiVersion <string>`, `APIVersion defines .*`, `kind <string>`, `metadata <ObjectMeta>`, `spec <Object>`, `Specification of Foo`)
	contains(t, c.kubectl("explain", "foos."+c.group+".spec.bars"), `FIELD: bars <\[\]Object>`, `DESCRIPTION:`, `List of Bars and their specs\.`, `FIELDS:`, `age <integer>`, `Age of Bar\.`, `bazs <\[\]string>`, `List of Bazs\.`, `name <string> -required-`, `Name of Bar\.`)
	has(t, c.refused("explain", "foos."+c.group+".spec.bars2"), `field "bars2" does not exist`)
	contains(t, c.kubectl("explain", "roots."+c.group), `KIND: Root`, `DESCRIPTION:`)
	contains(t, c.kubectl("explain", "nests."+c.group+".spec"), `FIELD: spec <Object>`, `Specification of Nest`, `dummy <string>`)

	// defaults, for requests and for what is stored already
	patch := func(operations string) {
		t.Helper()
		_, err := c.clients.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")).Patch(c.ctx, "foos."+c.group, types.JSONPatchType, []byte(operations), metav1.PatchOptions{})
		fine(t, err)
	}
	const properties = "/spec/versions/0/schema/openAPIV3Schema/properties/"
	becomes := func(name, field, want string) {
		t.Helper()
		c.says(want, "get", "foos."+c.group+"/"+name, "-o", "jsonpath=<{."+field+"}>")
	}
	patch(`[{"op":"add","path":"` + properties + `a","value":{"type":"string","default":"A"}},{"op":"add","path":"` + properties + `b","value":{"type":"string"}}]`)
	becomes("good", "a", "<A>")
	c.apply(c.object("Foo", "v1", "second", ""))
	becomes("second", "a", "<A>")
	patch(`[{"op":"remove","path":"` + properties + `a/default"},{"op":"add","path":"` + properties + `b/default","value":"B"}]`)
	becomes("second", "b", "<B>")
	becomes("second", "a", "<A>") // it was written
	becomes("good", "a", "<>")    // it was only read
}

// TestConformanceCustomVersions: documents follow what is served, a webhook converts, fields select, and watchers see all of it.
func TestConformanceCustomVersions(t *testing.T) {
	c := newCustoms(t)
	url, bundle := c.webhook(convert)
	schema := func(fields string) string {
		return "type: object, properties: {" + fields + "}"
	}
	versions := func(stored string) string {
		out := ""
		for name, fields := range map[string]string{"v1": "hostPort: {type: string}", "v2": "host: {type: string}, port: {type: string}"} {
			out += fmt.Sprintf("  - {name: %s, served: true, storage: %v, schema: {openAPIV3Schema: {%s}}, selectableFields: [{jsonPath: .%s}]}\n", name, name == stored, schema(fields), map[string]string{"v1": "hostPort", "v2": "host"}[name])
		}
		return out
	}
	conversion := fmt.Sprintf("  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: %q, caBundle: %s}}}", url, bundle)
	c.define("ends", "End", conversion, versions("v1"))
	one, two := c.of("ends", "v1"), c.of("ends", "v2")
	create := func(in dynamic.ResourceInterface, manifest string) {
		t.Helper()
		_, err := in.Create(c.ctx, &unstructured.Unstructured{Object: *read[map[string]any](t, manifest)}, metav1.CreateOptions{})
		fine(t, err)
	}
	create(one, c.object("End", "v1", "old", "hostPort: host1:80"))
	c.define("ends", "End", conversion, versions("v2"))
	create(two, c.object("End", "v2", "new", "host: host2\nport: \"8080\""))
	show := func(in dynamic.ResourceInterface, o metav1.ListOptions) string {
		t.Helper()
		list, err := in.List(c.ctx, o)
		fine(t, err)
		var out []string
		for _, o := range list.Items {
			out = append(out, fmt.Sprint(o.GetName(), " ", o.Object["hostPort"], " ", o.Object["host"], " ", o.Object["port"]))
		}
		return strings.Join(out, ", ")
	}
	if got := show(two, metav1.ListOptions{}); got != "new <nil> host2 8080, old <nil> host1 80" {
		t.Errorf("v2: %s", got)
	}
	if got := show(one, metav1.ListOptions{}); got != "new host2:8080 <nil> <nil>, old host1:80 <nil> <nil>" {
		t.Errorf("v1: %s", got)
	}
	if got := show(two, metav1.ListOptions{FieldSelector: "host=host1"}) + "; " + show(one, metav1.ListOptions{FieldSelector: "hostPort=host2:8080"}); got != "old <nil> host1 80; new host2:8080 <nil> <nil>" {
		t.Errorf("selected %s", got)
	}
	list, err := two.List(c.ctx, metav1.ListOptions{})
	fine(t, err)
	w, err := two.Watch(c.ctx, metav1.ListOptions{FieldSelector: "host=host1", ResourceVersion: list.GetResourceVersion()})
	fine(t, err)
	defer w.Stop()
	_, err = one.Patch(c.ctx, "old", types.MergePatchType, []byte(`{"hostPort":"host3:80"}`), metav1.PatchOptions{})
	fine(t, err)
	_, err = one.Patch(c.ctx, "new", types.MergePatchType, []byte(`{"hostPort":"host1:81"}`), metav1.PatchOptions{})
	fine(t, err)
	fine(t, two.DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "host=host1"}))
	for _, want := range []string{"DELETED old", "ADDED new", "DELETED new"} {
		if e := <-w.ResultChan(); fmt.Sprint(e.Type, " ", e.Object.(*unstructured.Unstructured).GetName()) != want {
			t.Errorf("%s %v, want %s", e.Type, e.Object, want)
		}
	}
	if got := show(two, metav1.ListOptions{}); got != "old <nil> host3 80" {
		t.Errorf("v2: %s", got)
	}

	// A version that is served no more is in no document.
	documented := func(version string, want bool) {
		t.Helper()
		c.until(fmt.Sprintf("%s to be documented: %v", version, want), func() (string, error) {
			r := c.do(nil, "get", "--raw", "/openapi/v3")
			all := c.do(nil, "get", "--raw", "/openapi/v2")
			in := strings.Contains(r.out, "apis/"+c.group+"/"+version)
			in2 := strings.Contains(all.out, c.group+"/"+version+"/")
			if in != want || in2 != want {
				return fmt.Sprint(in, in2), nil
			}
			return "", nil
		})
	}
	documented("v1", true)
	c.define("ends", "End", conversion, strings.Replace(versions("v2"), "{name: v1, served: true", "{name: v1, served: false", 1))
	documented("v1", false)
	documented("v2", true)
	if _, err := one.List(c.ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

// webhook serves requests of the API server over TLS until the test ends.
func (c *customs) webhook(handler http.HandlerFunc) (url, bundle string) {
	c.t.Helper()
	l, err := c.m.NS.Listen("tcp", "127.0.0.1:0")
	fine(c.t, err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}}
	server.StartTLS()
	c.t.Cleanup(server.Close)
	data, err := json.Marshal(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	fine(c.t, err)
	return server.URL, string(data)
}

// convert turns hostPort into host and port, and back.
func convert(w http.ResponseWriter, r *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(raw.Raw); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v2") {
			both, _ := o.Object["hostPort"].(string)
			host, port, _ := strings.Cut(both, ":")
			delete(o.Object, "hostPort")
			o.Object["host"], o.Object["port"] = host, port
		} else {
			o.Object["hostPort"] = fmt.Sprint(o.Object["host"], ":", o.Object["port"])
			delete(o.Object, "host")
			delete(o.Object, "port")
		}
		o.SetAPIVersion(review.Request.DesiredAPIVersion)
		response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Object: o})
	}
	review.Request, review.Response = nil, response
	_ = json.NewEncoder(w).Encode(review) // who does not hear it asks again
}

// TestConformanceWebhooks: they refuse and change what is written, for objects of all kinds, and are heard from one moment to the next.
func TestConformanceWebhooks(t *testing.T) {
	c := newCustoms(t)
	stuck := make(chan struct{})
	url, bundle := c.webhook(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		body := string(review.Request.Object.Raw) + string(review.Request.OldObject.Raw)
		switch r.URL.Path {
		case "/deny":
			if strings.Contains(body, "webhook-disallow") || review.Request.SubResource == "attach" {
				response.Allowed, response.Result = false, &metav1.Status{Reason: "the object contains unwanted data"}
			}
		case "/mutate":
			kind := admissionv1.PatchTypeJSONPatch
			response.PatchType, response.Patch = &kind, []byte(`[{"op":"add","path":"/data/mutation-stage-1","value":"yes"}]`)
			if review.Request.Kind.Kind == "Pod" {
				response.Patch = []byte(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"webhook-added-init-container","image":"x","resources":{}}]}]`)
			}
		case "/slow":
			<-stuck
		}
		review.Request, review.Response = nil, response
		_ = json.NewEncoder(w).Encode(review) // who does not hear it has given up
	})
	defer close(stuck)
	c.define("marks", "Mark", "", `  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {data: {type: object, properties: {key: {type: string}, mutation-start: {type: string}}}}}}}`)
	label := "kubernetes.io/metadata.name: " + c.ns
	// hooks applies a configuration; each is for this namespace only.
	hooks := func(kind, name, rest string) {
		t.Helper()
		c.apply(fmt.Sprintf("apiVersion: admissionregistration.k8s.io/v1\nkind: %sWebhookConfiguration\nmetadata: {name: %s-%s, labels: {e2e: %[3]s}}\nwebhooks:\n- name: a.example.com\n  sideEffects: None\n  admissionReviewVersions: [v1]\n  namespaceSelector: {matchLabels: {%s}}\n  %s\n", kind, name, c.ns, label, rest))
	}
	clean := func(kind string) {
		t.Helper()
		c.kubectl("delete", kind+"webhookconfiguration", "-l", "e2e="+c.ns)
	}
	defer func() {
		clean("validating")
		clean("mutating")
	}()
	to := func(path string) string {
		return fmt.Sprintf("clientConfig: {url: %q, caBundle: %s}", url+path, bundle)
	}
	rule := func(operations, group, resources string) string {
		return fmt.Sprintf("\n  rules: [{operations: [%s], apiGroups: [%q], apiVersions: [\"*\"], resources: [%s]}]", operations, group, resources)
	}
	maps := c.c.CoreV1().ConfigMaps(c.ns)
	config := func(name string, data map[string]string) (*corev1.ConfigMap, error) {
		return maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}, Data: data}, metav1.CreateOptions{})
	}
	refused := func(err error, words ...string) {
		t.Helper()
		if err == nil {
			t.Fatal("not refused")
		}
		has(t, err.Error(), words...)
	}

	c.run("attached", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"], stdin: true}]`)
	c.ready("attached")
	hooks("Validating", "deny", to("/deny")+rule("CREATE, UPDATE, DELETE", "", "configmaps, pods"))
	hooks("Validating", "attach", to("/deny")+rule("CONNECT", "", "pods/attach"))
	hooks("Validating", "custom", to("/deny")+rule("CREATE, UPDATE, DELETE", c.group, "marks"))
	unwanted := `admission webhook "a.example.com" denied the request: the object contains unwanted data`
	_, err := config("bad", map[string]string{"k": "webhook-disallow"})
	refused(err, unwanted)
	_, err = config("good", map[string]string{"k": "v"})
	fine(t, err)
	refused(c.patch("configmaps", "good", `{"data":{"k":"webhook-disallow"}}`), unwanted)
	_, err = c.c.CoreV1().Pods(c.ns).Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "webhook-disallow", Image: "x"}}}}, metav1.CreateOptions{})
	refused(err, unwanted)
	has(t, c.refused("attach", "attached", "-i"), "denied the request")
	marks := c.of("marks", "v1")
	mark := func(name, key string) (*unstructured.Unstructured, error) {
		return marks.Create(c.ctx, &unstructured.Unstructured{Object: *read[map[string]any](t, c.object("Mark", "v1", name, "data: {key: "+key+"}"))}, metav1.CreateOptions{})
	}
	_, err = mark("bad", "webhook-disallow")
	refused(err, unwanted)
	_, err = mark("good", "v")
	fine(t, err)
	_, err = marks.Patch(c.ctx, "good", types.MergePatchType, []byte(`{"data":{"key":"webhook-disallow"}}`), metav1.PatchOptions{})
	refused(err, unwanted)

	// It concerns only what its operations say from now on.
	hook := c.c.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err = hook.Patch(c.ctx, "deny-"+c.ns, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["UPDATE"]}]`), metav1.PatchOptions{})
	fine(t, err)
	_, err = config("created", map[string]string{"k": "webhook-disallow"})
	fine(t, err)
	// conditions
	_, err = hook.Patch(c.ctx, "deny-"+c.ns, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["CREATE"]},{"op":"add","path":"/webhooks/0/matchConditions","value":[{"name":"not-skipped","expression":"object.metadata.name != 'skip-me'"}]}]`), metav1.PatchOptions{})
	fine(t, err)
	_, err = config("skip-me", map[string]string{"k": "webhook-disallow"})
	fine(t, err)
	_, err = config("not-me", map[string]string{"k": "webhook-disallow"})
	refused(err, unwanted)
	_, err = hook.Patch(c.ctx, "deny-"+c.ns, types.JSONPatchType, []byte(`[{"op":"add","path":"/webhooks/0/matchConditions","value":[{"name":"bad","expression":"... [] bad expression"}]}]`), metav1.PatchOptions{})
	refused(err, "compilation failed")
	list, err := hook.List(c.ctx, metav1.ListOptions{LabelSelector: "e2e=" + c.ns})
	fine(t, err)
	if len(list.Items) != 3 || !slices.ContainsFunc(list.Items, func(w admissionregistrationv1.ValidatingWebhookConfiguration) bool {
		return *w.Webhooks[0].TimeoutSeconds == 10
	}) {
		t.Errorf("%+v", list.Items)
	}
	fine(t, hook.DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=" + c.ns}))
	_, err = config("free", map[string]string{"k": "webhook-disallow"})
	fine(t, err)

	// Whom nobody answers, and who is not heard in time.
	hooks("Validating", "closed", fmt.Sprintf("failurePolicy: Fail\n  clientConfig: {url: %q}", "https://127.0.0.1:1/")+rule("CREATE", "", "configmaps"))
	_, err = config("closed", nil)
	if !apierrors.IsInternalError(err) {
		t.Errorf("%v", err)
	}
	refused(err, `failed calling webhook "a.example.com"`)
	clean("validating")
	hooks("Validating", "slow", to("/slow")+"\n  timeoutSeconds: 1"+rule("CREATE", "", "configmaps"))
	_, err = config("slow", nil)
	refused(err, `failed calling webhook "a.example.com": failed to call webhook: Post "`+url+`/slow?timeout=1s": context deadline exceeded`)
	_, err = hook.Patch(c.ctx, "slow-"+c.ns, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`), metav1.PatchOptions{})
	fine(t, err)
	_, err = config("slow", nil)
	fine(t, err)
	clean("validating")

	// Changes: of config maps, of pods before their defaults, of custom objects with what their schema does not know cut off.
	hooks("Mutating", "mutate", to("/mutate")+rule("CREATE", "", "configmaps, pods")+"\n  objectSelector: {matchExpressions: [{key: name, operator: NotIn, values: [skip]}]}")
	hooks("Mutating", "custom", to("/mutate")+rule("CREATE", c.group, "marks"))
	m, err := config("mutated", map[string]string{"mutation-start": "yes"})
	fine(t, err)
	skipped, err := config("skip", map[string]string{"mutation-start": "yes"})
	fine(t, err)
	if m.Data["mutation-stage-1"] != "yes" || len(skipped.Data) != 1 {
		t.Errorf("%v, skipped %v", m.Data, skipped.Data)
	}
	pod, err := c.c.CoreV1().Pods(c.ns).Create(c.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mutated"}, Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "x"}}}}, metav1.CreateOptions{})
	fine(t, err)
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].TerminationMessagePolicy != corev1.TerminationMessageReadFile {
		t.Errorf("%+v", pod.Spec.InitContainers)
	}
	pruned, err := mark("mutated", "v")
	fine(t, err)
	if got := fmt.Sprint(pruned.Object["data"]); got != "map[key:v]" {
		t.Errorf("%s", got)
	}
	_, err = c.clients.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")).Patch(c.ctx, "marks."+c.group, types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/data/properties/mutation-stage-1","value":{"type":"string"}}]`), metav1.PatchOptions{})
	fine(t, err)
	c.until("the change to stay", func() (string, error) {
		o, err := mark("mutated-2", "v")
		if err != nil {
			return "", errors.Join(err, marks.Delete(c.ctx, "mutated-2", metav1.DeleteOptions{}))
		}
		if got := fmt.Sprint(o.Object["data"]); got != "map[key:v mutation-stage-1:yes]" {
			return got, marks.Delete(c.ctx, "mutated-2", metav1.DeleteOptions{})
		}
		return "", nil
	})
	_, err = c.c.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(c.ctx, "mutate-"+c.ns, types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/rules/0/operations","value":["UPDATE"]}]`), metav1.PatchOptions{})
	fine(t, err)
	m, err = config("alone", map[string]string{"mutation-start": "yes"})
	fine(t, err)
	if len(m.Data) != 1 {
		t.Errorf("%v", m.Data)
	}
}
