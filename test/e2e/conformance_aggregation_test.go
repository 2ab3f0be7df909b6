package e2e

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/celox/celox/test/image"
)

// image gives the shared machine an image of a static program, with a directory for its data.
func (s *stage) image(tag, program string, args ...string) {
	s.t.Helper()
	img, err := image.Build(image.Spec{Files: map[string]string{"bin/" + program: guest(s.t, program)}, Texts: map[string]string{"data/.keep": ""}, Entrypoint: append([]string{"/bin/" + program}, args...)})
	fine(s.t, err)
	fine(s.t, s.m.Import(tag, img))
}

// aquarium is another API server in a pod, with a group of its own.
type aquarium struct {
	*stage
	group   string
	clients dynamic.Interface
}

// newAquarium starts the server as its makers would: an account with the rights that such servers need, a certificate, a deployment, a
// service. Its group is not served yet: that takes an APIService.
func newAquarium(t *testing.T) (a *aquarium, bundle []byte) {
	s := newStage(t)
	config, err := s.m.RESTConfig()
	fine(t, err)
	clients, err := dynamic.NewForConfig(config)
	fine(t, err)
	a = &aquarium{s, s.ns + ".celox.test", clients}
	s.image("aquarium:1", "aquarium")
	ca := authority(t, time.Now().Add(-time.Hour))
	cert := issue(t, &ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "aquarium"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"aquarium." + s.ns + ".svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	s.secret("certs", map[string]string{"tls.crt": string(cert.certPEM), "tls.key": string(cert.keyPEM)})
	api, err := s.c.DiscoveryV1().EndpointSlices("default").Get(s.ctx, "kubernetes", metav1.GetOptions{})
	fine(t, err)
	t.Cleanup(func() {
		r := s.do(nil, "delete", "clusterrolebinding,rolebinding", "-n", "kube-system", "-l", "aquarium="+s.ns)
		if r.code != 0 {
			t.Error(r.err)
		}
	})
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: aquarium}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: aquarium-%[1]s, labels: {aquarium: %[1]s}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:auth-delegator}
subjects: [{kind: ServiceAccount, name: aquarium, namespace: %[1]s}]
---
apiVersion: v1
kind: Service
metadata: {name: aquarium}
spec: {selector: {app: aquarium}, ports: [{port: 7443, targetPort: 8443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: aquarium}
spec:
  replicas: 1
  selector: {matchLabels: {app: aquarium}}
  template:
    metadata: {labels: {app: aquarium}}
    spec:
      serviceAccountName: aquarium
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: aquarium:1
        args: [--group, %[2]s, --api, "%[3]s:%[4]d"] # a service's address is not what is tested here
        readinessProbe: {httpGet: {port: 8443, scheme: HTTPS, path: /readyz}, periodSeconds: 1, timeoutSeconds: 60}
        volumeMounts: [{name: certs, mountPath: /certs, readOnly: true}, {name: data, mountPath: /data}]
      volumes: [{name: certs, secret: {secretName: certs}}, {name: data, hostPath: {path: %[5]q}}]
`, s.ns, a.group, api.Endpoints[0].Addresses[0], *api.Ports[0].Port, s.m.Dir(t)))
	s.feed(fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: aquarium-%[1]s, namespace: kube-system, labels: {aquarium: %[1]s}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: aquarium, namespace: %[1]s}]
`, s.ns), "apply", "--namespace", "kube-system", "-f", "-")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the aquarium says:\n%s", s.do(nil, "logs", "-l", "app=aquarium").out)
		}
	})
	s.await("deployment/aquarium", "condition=Available")
	return a, ca.certPEM
}

func (a *aquarium) of(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: a.group, Version: "v1alpha1", Resource: resource}
}

// fish is a fish's content.
func (a *aquarium) fish(name, species string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": a.group + "/v1alpha1", "kind": "Fish",
		"metadata": map[string]any{"name": name, "labels": map[string]any{"species": species}}, "spec": map[string]any{"species": species}}}
}

// TestConformanceAggregatedServer: an API server in a pod of the cluster serves a group of its own through this one's door, as if it were built in.
func TestConformanceAggregatedServer(t *testing.T) {
	a, bundle := newAquarium(t)
	services := a.clients.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	name := "v1alpha1." + a.group
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	a.apply(fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: %[1]s, labels: {e2e: %[2]s}}
spec: {group: %[3]s, version: v1alpha1, groupPriorityMinimum: 2000, versionPriority: 200, caBundle: %[4]s, service: {name: aquarium, namespace: %[2]s, port: 7443}}
`, name, a.ns, a.group, base64.StdEncoding.EncodeToString(bundle)))
	a.await("apiservice/"+name, "condition=Available")

	t.Run("discovery", a.discovery)
	t.Run("objects", a.objects)
	t.Run("kubectl", a.commands)
	t.Run("permissions", a.permissions)
	t.Run("restart", func(t *testing.T) { a.restart(t, name) })
	t.Run("namespace", a.space)
	t.Run("registration", func(t *testing.T) { a.registration(t, services, name) })
}

// discovery: what the server has is in the documents of the cluster, merged and alone.
func (a *aquarium) discovery(t *testing.T) {
	s := a.sub(t)
	s.until("the group to be found", func() (string, error) {
		groups, lists, err := s.c.Discovery().ServerGroupsAndResources()
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(groups, func(g *metav1.APIGroup) bool {
			return g.Name == a.group && g.PreferredVersion.Version == "v1alpha1"
		}) {
			return fmt.Sprint(groups), nil
		}
		var found []string
		for _, l := range lists {
			for _, r := range l.APIResources {
				if l.GroupVersion == a.group+"/v1alpha1" {
					found = append(found, fmt.Sprintf("%s %s %v", r.Name, r.Kind, r.Namespaced))
				}
			}
		}
		slices.Sort(found)
		if got := strings.Join(found, ", "); got != "fishes Fish true, fishes/status Fish true, tanks Tank false, tanks/status Tank false" {
			return got, nil
		}
		return "", nil
	})
	contains(t, s.kubectl("api-resources", "--api-group="+a.group), `fishes \S+/v1alpha1 true Fish`, `tanks \S+/v1alpha1 false Tank`)
	has(t, s.kubectl("get", "--raw", "/apis/"+a.group), `"preferredVersion"`)
	has(t, s.kubectl("get", "--raw", "/apis/"+a.group+"/v1alpha1"), `"singularName":"fish"`)
}

// objects: created, read, listed, watched, changed and deleted through the cluster's door.
func (a *aquarium) objects(t *testing.T) {
	s := a.sub(t)
	fishes := a.clients.Resource(a.of("fishes")).Namespace(s.ns)
	list, err := fishes.List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	if len(list.Items) != 0 {
		t.Fatalf("%v", list.Items)
	}
	w, err := fishes.Watch(s.ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), LabelSelector: "species=carp"})
	fine(t, err)
	defer w.Stop()
	sees := func(kind watch.EventType, name string) {
		t.Helper()
		select {
		case e := <-w.ResultChan():
			if o, ok := e.Object.(*unstructured.Unstructured); !ok || e.Type != kind || o.GetName() != name {
				t.Fatalf("saw %s %v, want %s %s", e.Type, e.Object, kind, name)
			}
		case <-s.ctx.Done():
			t.Fatalf("never saw %s %s", kind, name)
		}
	}
	carp, err := fishes.Create(s.ctx, a.fish("carp-1", "carp"), metav1.CreateOptions{})
	fine(t, err)
	sees(watch.Added, "carp-1")
	_, err = fishes.Create(s.ctx, a.fish("pike-1", "pike"), metav1.CreateOptions{})
	fine(t, err)
	if _, err = fishes.Create(s.ctx, a.fish("carp-1", "carp"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	got, err := fishes.Get(s.ctx, "carp-1", metav1.GetOptions{})
	fine(t, err)
	if got.GetUID() != carp.GetUID() || got.GetGeneration() != 1 {
		t.Errorf("%v, made as %v", got, carp)
	}
	fine(t, unstructured.SetNestedField(got.Object, int64(7), "spec", "scales"))
	updated, err := fishes.Update(s.ctx, got, metav1.UpdateOptions{})
	fine(t, err)
	sees(watch.Modified, "carp-1")
	if _, err = fishes.Update(s.ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) || updated.GetGeneration() != 2 {
		t.Errorf("%v, generation %d", err, updated.GetGeneration())
	}
	_, err = fishes.Patch(s.ctx, "carp-1", types.MergePatchType, []byte(`{"status":{"mood":"good"}}`), metav1.PatchOptions{}, "status")
	fine(t, err)
	sees(watch.Modified, "carp-1")
	patched, err := fishes.Patch(s.ctx, "carp-1", types.JSONPatchType, []byte(`[{"op":"add","path":"/metadata/labels/patched","value":"true"},{"op":"replace","path":"/spec/scales","value":8}]`), metav1.PatchOptions{})
	fine(t, err)
	sees(watch.Modified, "carp-1")
	if scales, _, _ := unstructured.NestedInt64(patched.Object, "spec", "scales"); scales != 8 || patched.GetLabels()["patched"] != "true" || fmt.Sprint(patched.Object["status"]) != "map[mood:good]" {
		t.Errorf("%v", patched)
	}
	_, err = fishes.Patch(s.ctx, "carp-1", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("%v", err)
	}
	for selector, want := range map[string]int{"species=carp": 1, "species in (carp,pike)": 2, "species!=pike,patched=true": 1} {
		list, err := a.clients.Resource(a.of("fishes")).List(s.ctx, metav1.ListOptions{LabelSelector: selector})
		fine(t, err)
		if len(list.Items) != want {
			t.Errorf("%s: %d", selector, len(list.Items))
		}
	}
	_, err = fishes.Patch(s.ctx, "carp-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"species":"other"}}}`), metav1.PatchOptions{})
	fine(t, err)
	sees(watch.Deleted, "carp-1") // from this watcher's sight
	_, err = fishes.Patch(s.ctx, "carp-1", types.MergePatchType, []byte(`{"metadata":{"labels":{"species":"carp"}}}`), metav1.PatchOptions{})
	fine(t, err)
	sees(watch.Added, "carp-1")
	fine(t, fishes.Delete(s.ctx, "carp-1", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(carp.GetUID()))}))
	sees(watch.Deleted, "carp-1")
	if _, err := fishes.Get(s.ctx, "carp-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	tanks := a.clients.Resource(a.of("tanks"))
	_, err = tanks.Create(s.ctx, &unstructured.Unstructured{Object: map[string]any{"apiVersion": a.group + "/v1alpha1", "kind": "Tank", "metadata": map[string]any{"name": "big"}}}, metav1.CreateOptions{})
	fine(t, err)
	fine(t, fishes.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	fine(t, tanks.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	if list, err = a.clients.Resource(a.of("fishes")).List(s.ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("%v %v", list, err)
	}
}

// commands: what somebody at a terminal does with such objects.
func (a *aquarium) commands(t *testing.T) {
	s := a.sub(t)
	manifest := fmt.Sprintf("apiVersion: %s/v1alpha1\nkind: Fish\nmetadata: {name: eel}\nspec: {species: eel, scales: 1}\n", a.group)
	like(t, s.apply(manifest), `fish\.\S+/eel created`)
	like(t, s.apply(manifest), `fish\.\S+/eel unchanged`)
	like(t, s.apply(strings.Replace(manifest, "scales: 1", "scales: 2", 1)), `fish\.\S+/eel configured`)
	like(t, s.kubectl("get", "fishes."+a.group), `NAME AGE`, `eel \S+`)
	like(t, s.kubectl("get", "fish."+a.group, "eel", "-o", "jsonpath={.spec.scales}"), `2`)
	s.says("A fish is not a tank.", "explain", "fishes."+a.group)
	contains(t, s.kubectl("explain", "fishes."+a.group+".spec"), `FIELD: spec <FishSpec>`, `scales <integer>`, `How many scales\.`, `species <string>`)
	like(t, s.kubectl("label", "fish."+a.group, "eel", "long=yes"), `fish\.\S+/eel labeled`)
	like(t, s.kubectl("patch", "fish."+a.group, "eel", "--type=merge", "-p", `{"spec":{"scales":3}}`), `fish\.\S+/eel patched`)
	contains(t, s.kubectl("describe", "fish."+a.group, "eel"), `Name: eel`, `Kind: Fish`, `Scales: 3`)
	like(t, s.kubectl("delete", "fish."+a.group, "eel"), `fish\.\S+ "eel" deleted.*`)
}

// permissions: who may is decided by the cluster's roles, here and by the server, which hears who asks.
func (a *aquarium) permissions(t *testing.T) {
	s := a.sub(t)
	jane := []string{"--as", "jane", "--as-group", "fishers"}
	has(t, s.refused(append(jane, "get", "fishes."+a.group)...), `User "jane" cannot list resource "fishes" in API group "`+a.group+`" in the namespace "`+s.ns+`"`)
	s.apply(fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: fisher}
rules: [{apiGroups: [%q], resources: [fishes], verbs: [list, create, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: fisher}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: fisher}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: fishers}]
`, a.group))
	s.until("jane to be let in", func() (string, error) {
		return s.do(nil, append(jane, "get", "fishes."+a.group, "--ignore-not-found", "-o", "name")...).err, nil
	})
	has(t, s.refused(append(jane, "get", "fishes."+a.group, "-A")...), "cannot list resource")
}

// restart: the server keeps what it has while its container does not; the cluster says meanwhile what is the matter.
func (a *aquarium) restart(t *testing.T, name string) {
	s := a.sub(t)
	fishes := a.clients.Resource(a.of("fishes")).Namespace(s.ns)
	made, err := fishes.Create(s.ctx, a.fish("bream", "bream"), metav1.CreateOptions{})
	fine(t, err)
	s.kubectl("scale", "deployment", "aquarium", "--replicas=0")
	s.says("MissingEndpoints", "get", "apiservice", name, "-o", `jsonpath={.status.conditions[?(@.type=="Available")].reason}`)
	if _, err := fishes.List(s.ctx, metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("without a server: %v", err)
	}
	// A namespace stays, because nobody knows what the server has in it.
	other := s.ns + "-lake"
	_, err = s.c.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{})
	fine(t, err)
	fine(t, s.c.CoreV1().Namespaces().Delete(s.ctx, other, metav1.DeleteOptions{}))
	s.says("stale GroupVersion discovery: "+a.group+"/v1alpha1", "get", "namespace", other, "-o", `jsonpath={.status.conditions[?(@.type=="NamespaceDeletionDiscoveryFailure")].message}`)
	s.kubectl("scale", "deployment", "aquarium", "--replicas=1")
	s.await("apiservice/"+name, "condition=Available")
	s.kubectl("wait", "namespace/"+other, "--for=delete", "--timeout="+patience.String())
	got, err := fishes.Get(s.ctx, "bream", metav1.GetOptions{})
	fine(t, err)
	if got.GetUID() != made.GetUID() {
		t.Errorf("%v, made as %v", got, made)
	}
}

// space: with a namespace goes what other servers have in it.
func (a *aquarium) space(t *testing.T) {
	s := a.sub(t)
	other := s.ns + "-sea"
	_, err := s.c.CoreV1().Namespaces().Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other}}, metav1.CreateOptions{})
	fine(t, err)
	fishes := a.clients.Resource(a.of("fishes")).Namespace(other)
	_, err = fishes.Create(s.ctx, a.fish("whale", "none"), metav1.CreateOptions{})
	fine(t, err)
	fine(t, s.c.CoreV1().Namespaces().Delete(s.ctx, other, metav1.DeleteOptions{}))
	s.until("the namespace to be gone", func() (string, error) {
		ns, err := s.c.CoreV1().Namespaces().Get(s.ctx, other, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return shown(ns), err
	})
	list, err := fishes.List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	if len(list.Items) != 0 {
		t.Errorf("%v is left", list.Items)
	}
}

// registration: the APIService itself, its status, and its end.
func (a *aquarium) registration(t *testing.T, services dynamic.ResourceInterface, name string) {
	s := a.sub(t)
	patch := func(body string, door ...string) *unstructured.Unstructured {
		t.Helper()
		o, err := services.Patch(s.ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, door...)
		fine(t, err)
		return o
	}
	if o := patch(`{"metadata":{"labels":{"patched":"true"}},"spec":{"versionPriority":400}}`); fmt.Sprint(o.Object["spec"].(map[string]any)["versionPriority"]) != "400" {
		t.Errorf("%v", o)
	}
	s.until("the object to be replaced", func() (string, error) {
		o, err := services.Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		fine(t, unstructured.SetNestedField(o.Object, int64(300), "spec", "versionPriority"))
		o, err = services.Update(s.ctx, o, metav1.UpdateOptions{})
		if err == nil && fmt.Sprint(o.Object["spec"].(map[string]any)["versionPriority"]) != "300" {
			t.Errorf("%v", o)
		}
		return "", err
	})
	condition := func(o *unstructured.Unstructured, kind string) bool {
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		return slices.ContainsFunc(list, func(c any) bool { return c.(map[string]any)["type"] == kind })
	}
	s.until("the status to be written", func() (string, error) {
		o, err := services.Get(s.ctx, name, metav1.GetOptions{}, "status")
		if err != nil {
			return "", err
		}
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		if !condition(o, "Available") {
			return fmt.Sprint(list), nil
		}
		list = append(list, map[string]any{"type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set from e2e test", "lastTransitionTime": "2026-01-01T00:00:00Z"})
		fine(t, unstructured.SetNestedSlice(o.Object, list, "status", "conditions"))
		o, err = services.UpdateStatus(s.ctx, o, metav1.UpdateOptions{})
		if err == nil && !condition(o, "StatusUpdated") {
			t.Errorf("%v", o)
		}
		return "", err
	})
	if o := patch(`{"status":{"conditions":[{"type":"Available","status":"True","reason":"E2E"},{"type":"StatusPatched","status":"True","reason":"E2E"}]}}`, "status"); !condition(o, "StatusPatched") {
		t.Errorf("%v", o)
	}
	list, err := services.List(s.ctx, metav1.ListOptions{LabelSelector: "e2e=" + s.ns + ",patched=true"})
	fine(t, err)
	if len(list.Items) != 1 {
		t.Errorf("%v", list.Items)
	}
	fine(t, services.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=" + s.ns + ",patched=true"}))
	if _, err := services.Get(s.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	s.until("the group to be gone", func() (string, error) {
		if r := s.do(nil, "get", "--raw", "/apis/"+a.group+"/v1alpha1"); !strings.Contains(r.err, "the server could not find the requested resource") {
			return r.out + r.err, nil
		}
		groups, err := s.c.Discovery().ServerGroups()
		if err == nil && slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == a.group }) {
			return "it is listed", nil
		}
		return "", err
	})
}
