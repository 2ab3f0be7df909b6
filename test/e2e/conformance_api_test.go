package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// TestConformanceDiscovery: every group says which of its versions it prefers, and that version lists its resources, one by one and at once.
func TestConformanceDiscovery(t *testing.T) {
	s := newStage(t)
	get := func(path string) string {
		t.Helper()
		raw, err := s.c.Discovery().RESTClient().Get().AbsPath(path).Do(s.ctx).Raw()
		fine(t, err)
		return string(raw)
	}
	for _, g := range read[metav1.APIGroupList](t, get("/apis/")).Groups {
		if same := read[metav1.APIGroup](t, get("/apis/"+g.Name+"/")); !slices.Contains(g.Versions, g.PreferredVersion) || same.PreferredVersion != g.PreferredVersion {
			t.Errorf("group %q prefers %v of %v, and alone %v", g.Name, g.PreferredVersion, g.Versions, same.PreferredVersion)
		}
		for _, v := range g.Versions {
			if list := read[metav1.APIResourceList](t, get("/apis/"+v.GroupVersion)); list.GroupVersion != v.GroupVersion || len(list.APIResources) == 0 {
				t.Errorf("%s: %+v", v.GroupVersion, list)
			}
		}
	}
	// everything in one document
	_, lists, err := s.c.Discovery().ServerGroupsAndResources()
	fine(t, err)
	have := map[string][]string{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			have[l.GroupVersion+" "+r.Name] = r.Verbs
		}
	}
	for _, want := range []string{
		"v1 namespaces", "v1 pods/ephemeralcontainers", "v1 pods/resize", "apps/v1 deployments/scale", "batch/v1 cronjobs/status", "autoscaling/v2 horizontalpodautoscalers/status",
		"admissionregistration.k8s.io/v1 validatingwebhookconfigurations", "admissionregistration.k8s.io/v1 mutatingwebhookconfigurations", "admissionregistration.k8s.io/v1 validatingadmissionpolicies/status",
		"admissionregistration.k8s.io/v1 validatingadmissionpolicybindings", "admissionregistration.k8s.io/v1 mutatingadmissionpolicies", "admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings",
		"apiextensions.k8s.io/v1 customresourcedefinitions/status", "certificates.k8s.io/v1 certificatesigningrequests/approval", "coordination.k8s.io/v1 leases", "discovery.k8s.io/v1 endpointslices",
		"flowcontrol.apiserver.k8s.io/v1 flowschemas/status", "flowcontrol.apiserver.k8s.io/v1 prioritylevelconfigurations/status", "networking.k8s.io/v1 ingressclasses", "networking.k8s.io/v1 servicecidrs/status",
		"node.k8s.io/v1 runtimeclasses", "policy/v1 poddisruptionbudgets/status", "resource.k8s.io/v1 resourceclaims/status", "resource.k8s.io/v1 resourceslices", "resource.k8s.io/v1 deviceclasses",
		"resource.k8s.io/v1 resourceclaimtemplates", "scheduling.k8s.io/v1 priorityclasses", "storage.k8s.io/v1 volumeattachments/status", "storage.k8s.io/v1 csistoragecapacities", "storage.k8s.io/v1 csinodes",
	} {
		if len(have[want]) == 0 {
			t.Errorf("discovery has no %s", want)
		}
	}
	for _, r := range []string{"flowschemas", "prioritylevelconfigurations"} {
		for _, verb := range []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"} {
			if !slices.Contains(have["flowcontrol.apiserver.k8s.io/v1 "+r], verb) {
				t.Errorf("%s cannot be asked to %s", r, verb)
			}
		}
	}
	version, err := s.c.Discovery().ServerVersion()
	fine(t, err)
	if version.Major != "1" || strings.TrimLeft(version.Minor, "0123456789") != "" {
		t.Errorf("version %+v", version)
	}

	// what cannot be a table says so
	review, err := json.Marshal(&authorizationv1.SelfSubjectAccessReview{TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SelfSubjectAccessReview"},
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}}})
	fine(t, err)
	err = s.c.AuthorizationV1().RESTClient().Post().Resource("selfsubjectaccessreviews").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").SetHeader("Content-Type", "application/json").Body(review).Do(s.ctx).Error()
	if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code != http.StatusNotAcceptable {
		t.Errorf("%v", err)
	}
}

// TestConformanceWatchers: by labels, from where one left off, and in one order for all.
func TestConformanceWatchers(t *testing.T) {
	s := newStage(t)
	maps := s.c.CoreV1().ConfigMaps(s.ns)
	watchers := func(selector, version string) watch.Interface {
		t.Helper()
		w, err := maps.Watch(s.ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: version})
		fine(t, err)
		t.Cleanup(w.Stop)
		return w
	}
	list, err := maps.List(s.ctx, metav1.ListOptions{})
	fine(t, err)
	a, b, both := watchers("watch=a", list.ResourceVersion), watchers("watch=b", list.ResourceVersion), watchers("watch in (a,b)", list.ResourceVersion)
	next := func(w watch.Interface, want string) *corev1.ConfigMap {
		t.Helper()
		select {
		case e := <-w.ResultChan():
			m, ok := e.Object.(*corev1.ConfigMap)
			if !ok || fmt.Sprintf("%s %s %s", e.Type, m.Name, m.Data["mutation"]) != want {
				t.Fatalf("%s %v, want %s", e.Type, e.Object, want)
			}
			return m
		case <-s.ctx.Done():
			t.Fatalf("no event, want %s", want)
			return nil
		}
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{"watch": "a"}}, Data: map[string]string{"mutation": "0"}}
	m, err = maps.Create(s.ctx, m, metav1.CreateOptions{})
	fine(t, err)
	next(a, "ADDED m 0")
	next(both, "ADDED m 0")
	change := func(edit func()) {
		t.Helper()
		edit()
		m, err = maps.Update(s.ctx, m, metav1.UpdateOptions{})
		fine(t, err)
	}
	change(func() { m.Data["mutation"] = "1" })
	first := next(a, "MODIFIED m 1")
	next(both, "MODIFIED m 1")
	// It leaves one selection for another, and comes back; who watches both sees a change.
	change(func() { m.Labels["watch"], m.Data["mutation"] = "b", "2" })
	next(a, "DELETED m 1") // as it was when it belonged
	next(b, "ADDED m 2")
	next(both, "MODIFIED m 2")
	change(func() { m.Labels["watch"], m.Data["mutation"] = "a", "3" })
	next(a, "ADDED m 3")
	next(b, "DELETED m 2")
	fine(t, maps.Delete(s.ctx, "m", metav1.DeleteOptions{}))
	next(a, "DELETED m 3")
	// from where somebody left off
	late := watchers("watch=a", first.ResourceVersion)
	next(late, "DELETED m 1")
	next(late, "ADDED m 3")
	next(late, "DELETED m 3")

	// Watchers that begin anywhere see the same in the same order, while somebody writes.
	written := make(chan error, 1)
	go func() {
		for i := range 40 {
			name := fmt.Sprintf("n%d", i)
			_, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			if err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	version := func(w watch.Interface) string {
		t.Helper()
		e := <-w.ResultChan()
		m, ok := e.Object.(*corev1.ConfigMap)
		if !ok {
			t.Fatalf("%s %v", e.Type, e.Object)
		}
		return m.ResourceVersion
	}
	leader := watchers("", list.ResourceVersion)
	var followers []watch.Interface
	now := version(leader)
	for range 20 {
		followers = append(followers, watchers("", now))
		now = version(leader)
		for i, f := range followers {
			if got := version(f); got != now {
				t.Fatalf("watcher %d of %d is at %s, the first one at %s", i, len(followers), got, now)
			}
		}
	}
	fine(t, <-written)
}

// TestConformanceQuota: what a quota counts, which pods it means, and that its status is the controller's.
func TestConformanceQuota(t *testing.T) {
	s := newStage(t)
	quotas := s.c.CoreV1().ResourceQuotas(s.ns)
	limit := func(name, spec string) {
		t.Helper()
		_, err := quotas.Create(s.ctx, read[corev1.ResourceQuota](t, fmt.Sprintf("metadata: {name: %s, labels: {e2e: quota}}\nspec: %s", name, spec)), metav1.CreateOptions{})
		fine(t, err)
	}
	used := func(name string, want map[string]string) {
		t.Helper()
		s.until(fmt.Sprintf("quota %s to have counted %v", name, want), func() (string, error) {
			q, err := quotas.Get(s.ctx, name, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			for r, n := range want {
				if got := q.Status.Used[corev1.ResourceName(r)]; got.Cmp(resource.MustParse(n)) != 0 || len(q.Status.Hard) != len(q.Spec.Hard) {
					return fmt.Sprint(q.Status.Used), nil
				}
			}
			return "", nil
		})
	}
	limit("all", `{hard: {pods: 5, services: 3, services.nodeports: 1, services.loadbalancers: 1, secrets: 10, configmaps: 10, resourcequotas: 10, replicationcontrollers: 2, count/replicasets.apps: 2, persistentvolumeclaims: 2, requests.cpu: 1, requests.memory: 500Mi, requests.storage: 10Gi, ephemeral-storage: 50Gi, requests.example.com/dongle: 3}}`)
	limit("best", `{hard: {pods: 5}, scopes: [BestEffort]}`)
	limit("other", `{hard: {pods: 5}, scopes: [NotBestEffort]}`)
	limit("ends", `{hard: {pods: 5}, scopes: [Terminating]}`)
	limit("stays", `{hard: {pods: 5}, scopes: [NotTerminating]}`)
	zero := map[string]string{"pods": "0", "services": "0", "secrets": "0", "configmaps": "1", "resourcequotas": "5", "replicationcontrollers": "0", "count/replicasets.apps": "0", "persistentvolumeclaims": "0", "requests.cpu": "0", "requests.storage": "0"}
	used("all", zero)

	resources := "resources: {requests: {cpu: 500m, memory: 252Mi, ephemeral-storage: 30Gi, example.com/dongle: 2}, limits: {example.com/dongle: 2}}"
	pod := func(name, resources, more string) error {
		spec := fmt.Sprintf("schedulerName: nobody\ncontainers: [{name: c, image: x, %s}]\n%s", resources, more)
		_, err := s.c.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *read[corev1.PodSpec](t, spec)}, metav1.CreateOptions{})
		return err
	}
	// refused tries until it may not: a count that was under way when an object was charged may not have seen it, and is put right a second later.
	refused := func(words string, try, undo func() error) {
		t.Helper()
		s.until("a refusal: "+words, func() (string, error) {
			err := try()
			if err == nil {
				return "admitted", undo()
			}
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
				return "", err
			}
			return "", nil
		})
	}
	fine(t, pod("p", resources, "activeDeadlineSeconds: 3600"))
	used("all", map[string]string{"pods": "1", "requests.cpu": "500m", "requests.memory": "252Mi", "ephemeral-storage": "30Gi", "requests.example.com/dongle": "2"})
	for name, want := range map[string]string{"best": "0", "other": "1", "ends": "1", "stays": "0"} {
		used(name, map[string]string{"pods": want})
	}
	for what, resources := range map[string]string{"requests.cpu": "resources: {requests: {cpu: 600m, memory: 100Mi, ephemeral-storage: 1Gi}}", "requests.example.com/dongle": "resources: {requests: {cpu: 100m, memory: 1Mi, ephemeral-storage: 1Gi, example.com/dongle: 2}, limits: {example.com/dongle: 2}}"} {
		refused("exceeded quota: all, requested: "+what+"=", func() error { return pod("too-much", resources, "") }, func() error {
			return s.c.CoreV1().Pods(s.ns).Delete(s.ctx, "too-much", metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		})
	}
	if err := pod("says-nothing", "", ""); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "must specify requests.cpu for: c; requests.memory for: c") {
		t.Errorf("%v", err)
	}
	// a pod that was counted may change
	fine(t, s.patch("pods", "p", `{"metadata":{"annotations":{"a":"b"}}}`))
	used("all", map[string]string{"pods": "1", "requests.cpu": "500m"})
	fine(t, s.c.CoreV1().Pods(s.ns).Delete(s.ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	used("all", zero)

	// other objects
	service := func(name string, kind corev1.ServiceType) error {
		_, err := s.c.CoreV1().Services(s.ns).Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
		return err
	}
	fine(t, service("a", corev1.ServiceTypeClusterIP))
	fine(t, service("b", corev1.ServiceTypeNodePort))
	refused("exceeded quota: all, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1",
		func() error { return service("c", corev1.ServiceTypeLoadBalancer) }, func() error { return s.c.CoreV1().Services(s.ns).Delete(s.ctx, "c", metav1.DeleteOptions{}) })
	s.secret("s", map[string]string{"a": "b"})
	s.apply(workload("v1", "ReplicationController", "rc", "replicas: 0") + workload("apps/v1", "ReplicaSet", "rs", "replicas: 0"))
	used("all", map[string]string{"services": "2", "services.nodeports": "1", "services.loadbalancers": "0", "secrets": "1", "replicationcontrollers": "1", "count/replicasets.apps": "1"})
	for _, err := range []error{
		s.c.CoreV1().RESTClient().Delete().Namespace(s.ns).Resource("services").Do(s.ctx).Error(), s.c.CoreV1().Secrets(s.ns).Delete(s.ctx, "s", metav1.DeleteOptions{}),
		s.c.CoreV1().ReplicationControllers(s.ns).Delete(s.ctx, "rc", metav1.DeleteOptions{}), s.c.AppsV1().ReplicaSets(s.ns).Delete(s.ctx, "rs", metav1.DeleteOptions{}),
	} {
		fine(t, err)
	}
	used("all", map[string]string{"services": "0", "services.nodeports": "0", "secrets": "0", "replicationcontrollers": "0", "count/replicasets.apps": "0"})

	// What somebody else says of the status the controller puts right; a change of the spec it follows.
	_, err := quotas.Patch(s.ctx, "best", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"hard":{"pods":"99"},"used":{"pods":"7"}}}`), metav1.PatchOptions{}, "status")
	fine(t, err)
	s.until("the status to be put right", func() (string, error) {
		q, err := quotas.Get(s.ctx, "best", metav1.GetOptions{})
		if err == nil && (q.Annotations["patchedstatus"] != "true" || q.Status.Hard.Pods().Value() != 5 || q.Status.Used.Pods().Value() != 0) {
			return fmt.Sprint(q.Status), nil
		}
		return "", err
	})
	fine(t, s.patch("resourcequotas", "best", `{"spec":{"hard":{"pods":"6"}}}`))
	s.until("the status to follow", func() (string, error) {
		q, err := quotas.Get(s.ctx, "best", metav1.GetOptions{})
		if err == nil && q.Status.Hard.Pods().Value() != 6 {
			return fmt.Sprint(q.Status), nil
		}
		return "", err
	})
	fine(t, quotas.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=quota"}))
}

// TestConformanceNamespaces: status, finalizers, and what is in them.
func TestConformanceNamespaces(t *testing.T) {
	s := newStage(t)
	namespaces := s.c.CoreV1().Namespaces()
	name := s.ns + "-other"
	ns, err := namespaces.Create(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	fine(t, err)
	if ns.Labels[corev1.LabelMetadataName] != name || ns.Status.Phase != corev1.NamespaceActive {
		t.Errorf("%+v", ns)
	}
	patched, err := namespaces.Patch(s.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"e2e-patched":"true"}},"status":{"conditions":[{"type":"StatusPatch","status":"True","reason":"E2E","message":"Patched"}]}}`), metav1.PatchOptions{}, "status")
	fine(t, err)
	if patched.Annotations["e2e-patched"] != "true" || len(patched.Status.Conditions) != 1 || patched.Status.Conditions[0].Message != "Patched" {
		t.Errorf("%+v", patched)
	}
	patched.Status.Conditions = append(patched.Status.Conditions, corev1.NamespaceCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E"})
	updated, err := namespaces.UpdateStatus(s.ctx, patched, metav1.UpdateOptions{})
	fine(t, err)
	updated.Labels["updated"] = "true"
	updated, err = namespaces.Update(s.ctx, updated, metav1.UpdateOptions{})
	fine(t, err)
	if len(updated.Status.Conditions) != 2 {
		t.Errorf("%+v", updated)
	}
	updated.Spec.Finalizers = append(updated.Spec.Finalizers, "e2e.example.com/hold")
	held, err := namespaces.Finalize(s.ctx, updated, metav1.UpdateOptions{})
	fine(t, err)
	if !slices.Contains(held.Spec.Finalizers, "e2e.example.com/hold") {
		t.Errorf("%+v", held)
	}
	_, err = s.c.CoreV1().Services(name).Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	fine(t, err)
	fine(t, namespaces.Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.until("what is in it to be gone", func() (string, error) {
		ns, err := namespaces.Get(s.ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err) // it is held
		}
		list, err := s.c.CoreV1().Services(name).List(s.ctx, metav1.ListOptions{})
		if err == nil && (len(list.Items) > 0 || len(ns.Spec.Finalizers) != 1) {
			return shown(ns), nil
		}
		return "", err
	})
	_, err = s.c.CoreV1().ConfigMaps(name).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("%v", err)
	}
	s.until("it to be let go", func() (string, error) {
		ns, err := namespaces.Get(s.ctx, name, metav1.GetOptions{})
		if err == nil {
			ns.Spec.Finalizers = nil
			_, err = namespaces.Finalize(s.ctx, ns, metav1.UpdateOptions{})
		}
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "still there", err
	})
}

// TestConformanceAccounts: tokens in pods or not, their review, and the CA in every namespace.
func TestConformanceAccounts(t *testing.T) {
	s := newStage(t)
	for _, name := range []string{"mount", "nomount"} {
		mount := name == "mount"
		_, err := s.c.CoreV1().ServiceAccounts(s.ns).Create(s.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}, AutomountServiceAccountToken: &mount}, metav1.CreateOptions{})
		fine(t, err)
		for _, said := range []string{"", "true", "false"} {
			spec := "schedulerName: nobody\nserviceAccountName: " + name + "\ncontainers: [{name: c, image: x}]\n"
			if said != "" {
				spec += "automountServiceAccountToken: " + said
			}
			pod, err := s.c.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name + said}, Spec: *read[corev1.PodSpec](t, spec)}, metav1.CreateOptions{})
			fine(t, err)
			want := said == "true" || said == "" && mount
			if got := len(pod.Spec.Containers[0].VolumeMounts) == 1; got != want {
				t.Errorf("account %s, pod %q: mounted %v", name, said, got)
			}
		}
	}
	request, err := s.c.CoreV1().ServiceAccounts(s.ns).CreateToken(s.ctx, "mount", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	fine(t, err)
	review, err := s.c.AuthenticationV1().TokenReviews().Create(s.ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: request.Status.Token}}, metav1.CreateOptions{})
	fine(t, err)
	if u := review.Status.User; !review.Status.Authenticated || review.Status.Error != "" || u.Username != "system:serviceaccount:"+s.ns+":mount" || !slices.Contains(u.Groups, "system:serviceaccounts:"+s.ns) || u.UID == "" {
		t.Errorf("%+v", review.Status)
	}
	// Pods that check tokens by themselves find the keys at an address that they reach.
	raw, err := s.c.CoreV1().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(s.ctx)
	fine(t, err)
	openID := struct {
		Keys string `json:"jwks_uri"`
	}{}
	fine(t, json.Unmarshal(raw, &openID))
	slice, err := s.c.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(s.ctx, "kubernetes", metav1.GetOptions{})
	fine(t, err)
	if want := fmt.Sprintf("https://%s:%d/openid/v1/jwks", slice.Endpoints[0].Addresses[0], *slice.Ports[0].Port); openID.Keys != want {
		t.Errorf("the keys are at %s, pods reach the API by %s", openID.Keys, want)
	}

	maps := s.c.CoreV1().ConfigMaps(s.ns)
	root := func(uid types.UID) types.UID {
		t.Helper()
		var found types.UID
		s.until("the CA", func() (string, error) {
			m, err := maps.Get(s.ctx, "kube-root-ca.crt", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return "missing", nil
			}
			if err == nil && (m.UID == uid || !strings.HasPrefix(m.Data["ca.crt"], "-----BEGIN CERTIFICATE-----")) {
				return "as it was", nil
			}
			if err == nil {
				found = m.UID
			}
			return "", err
		})
		return found
	}
	uid := root("")
	fine(t, maps.Delete(s.ctx, "kube-root-ca.crt", metav1.DeleteOptions{}))
	root(uid)
	_, err = maps.Update(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": ""}}, metav1.UpdateOptions{})
	fine(t, err)
	root("")

	// who may what
	answer, err := s.c.AuthorizationV1().SubjectAccessReviews().Create(s.ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:" + s.ns + ":mount", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "configmaps", Namespace: s.ns}}}, metav1.CreateOptions{})
	fine(t, err)
	local, err := s.c.AuthorizationV1().LocalSubjectAccessReviews(s.ns).Create(s.ctx, &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns}, Spec: answer.Spec}, metav1.CreateOptions{})
	fine(t, err)
	if answer.Status.Allowed || local.Status.Allowed {
		t.Errorf("%+v %+v", answer.Status, local.Status)
	}
}

// TestConformanceSigningRequests: a request for a certificate is approved and filled in at doors of its own.
func TestConformanceSigningRequests(t *testing.T) {
	s := newStage(t)
	requests := s.c.CertificatesV1().CertificateSigningRequests()
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: s.ns, Labels: map[string]string{"e2e": s.ns}}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: signingRequest(t), SignerName: "example.com/e2e", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}}}
	w, err := requests.Watch(s.ctx, metav1.ListOptions{LabelSelector: "e2e=" + s.ns})
	fine(t, err)
	defer w.Stop()
	_, err = requests.Create(s.ctx, csr, metav1.CreateOptions{})
	fine(t, err)
	got, err := requests.Get(s.ctx, s.ns, metav1.GetOptions{})
	fine(t, err)
	if got.Spec.Username == "" || !slices.Contains(got.Spec.Groups, "system:authenticated") {
		t.Errorf("%+v", got.Spec)
	}
	patch := func(door, body string) *certificatesv1.CertificateSigningRequest {
		t.Helper()
		c, err := requests.Patch(s.ctx, s.ns, types.MergePatchType, []byte(body), metav1.PatchOptions{}, door)
		fine(t, err)
		return c
	}
	got = patch("approval", `{"metadata":{"annotations":{"patchedapproval":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"}]}}`)
	if got.Annotations["patchedapproval"] != "true" || len(got.Status.Conditions) != 1 {
		t.Errorf("%+v", got)
	}
	got.Status.Conditions = append(got.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "E2E"})
	_, err = requests.UpdateApproval(s.ctx, s.ns, got, metav1.UpdateOptions{})
	fine(t, err)
	got = patch("status", `{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"conditions":[{"type":"ApprovalPatch","status":"True","reason":"e2e"},{"type":"Approved","status":"True","reason":"E2E"},{"type":"StatusPatch","status":"True","reason":"e2e"}]}}`)
	if got.Annotations["patchedstatus"] != "true" || len(got.Status.Conditions) != 3 {
		t.Errorf("%+v", got)
	}
	got.Status.Conditions = append(got.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: "StatusUpdate", Status: corev1.ConditionTrue, Reason: "E2E"})
	got, err = requests.UpdateStatus(s.ctx, got, metav1.UpdateOptions{})
	fine(t, err)
	if len(got.Status.Conditions) != 4 {
		t.Errorf("%+v", got)
	}
	fine(t, requests.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=" + s.ns}))
	for e := range w.ResultChan() {
		if e.Type == watch.Deleted {
			return
		}
	}
	t.Error("nobody saw the deletion")
}

// TestConformanceEvents: of the core group and of their own, found in all namespaces, changed and deleted together.
func TestConformanceEvents(t *testing.T) {
	s := newStage(t)
	events := s.c.EventsV1().Events(s.ns)
	made, err := events.Create(s.ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Labels: map[string]string{"e2e": s.ns}}, EventTime: metav1.NowMicro(), Regarding: corev1.ObjectReference{Namespace: s.ns}, Action: "Do", Reason: "Test", Type: "Normal", Note: "new",
		ReportingController: "e2e.example.com/c", ReportingInstance: "c-1",
	}, metav1.CreateOptions{})
	fine(t, err)
	// at the other door too
	core, err := s.c.CoreV1().Events("").List(s.ctx, metav1.ListOptions{LabelSelector: "e2e=" + s.ns})
	fine(t, err)
	if len(core.Items) != 1 || core.Items[0].Message != "new" || core.Items[0].ReportingController != "e2e.example.com/c" {
		t.Errorf("%+v", core.Items)
	}
	for _, selector := range []string{"reportingController=e2e.example.com/c", "metadata.namespace=" + s.ns + ",reason=Test"} {
		list, err := s.c.EventsV1().Events("").List(s.ctx, metav1.ListOptions{LabelSelector: "e2e=" + s.ns, FieldSelector: selector})
		fine(t, err)
		if len(list.Items) != 1 {
			t.Errorf("%s: %d", selector, len(list.Items))
		}
	}
	old := made.DeepCopy()
	made.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(time.Unix(1500000000, 0))}
	body := fmt.Sprintf(`{"series":{"count":2,"lastObservedTime":%q}}`, "2017-07-14T02:40:00.000000Z")
	patched, err := events.Patch(s.ctx, "e", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{})
	fine(t, err)
	if patched.Series == nil || patched.Series.Count != 2 || !patched.Series.LastObservedTime.Equal(&made.Series.LastObservedTime) || patched.UID != old.UID {
		t.Errorf("%+v", patched)
	}
	patched.Series = &eventsv1.EventSeries{Count: 100, LastObservedTime: metav1.NewMicroTime(time.Unix(1505828951, 0))}
	updated, err := events.Update(s.ctx, patched, metav1.UpdateOptions{})
	fine(t, err)
	if updated.Series.Count != 100 {
		t.Errorf("%+v", updated)
	}
	core.Items[0].Series = &corev1.EventSeries{Count: 7, LastObservedTime: metav1.NowMicro()}
	core.Items[0].ResourceVersion = updated.ResourceVersion
	_, err = s.c.CoreV1().Events(s.ns).Update(s.ctx, &core.Items[0], metav1.UpdateOptions{})
	fine(t, err)
	for i := range 3 {
		_, err := s.c.CoreV1().Events(s.ns).Create(s.ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("core-%d", i), Labels: map[string]string{"e2e": s.ns}}, InvolvedObject: corev1.ObjectReference{Namespace: s.ns}, Message: "m", Reason: "r", Type: "Normal"}, metav1.CreateOptions{})
		fine(t, err)
	}
	message, err := s.c.CoreV1().Events(s.ns).Patch(s.ctx, "core-1", types.StrategicMergePatchType, []byte(`{"message":"patched"}`), metav1.PatchOptions{})
	fine(t, err)
	if message.Message != "patched" {
		t.Errorf("%+v", message)
	}
	fine(t, s.c.CoreV1().Events(s.ns).Delete(s.ctx, "core-0", metav1.DeleteOptions{}))
	fine(t, events.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=" + s.ns}))
	core, err = s.c.CoreV1().Events("").List(s.ctx, metav1.ListOptions{LabelSelector: "e2e=" + s.ns})
	fine(t, err)
	if len(core.Items) != 0 {
		t.Errorf("%d are left", len(core.Items))
	}
}

// TestConformanceLimitRanges: what pods get that say nothing, and what they may not say.
func TestConformanceLimitRanges(t *testing.T) {
	s := newStage(t)
	ranges := s.c.CoreV1().LimitRanges(s.ns)
	r, err := ranges.Create(s.ctx, read[corev1.LimitRange](t, `
metadata: {name: r, labels: {e2e: range}}
spec: {limits: [{type: Container, min: {cpu: 50m, memory: 100Mi}, max: {cpu: 500m, memory: 500Mi}, default: {cpu: 500m, memory: 500Mi}, defaultRequest: {cpu: 100m, memory: 200Mi}}]}`), metav1.CreateOptions{})
	fine(t, err)
	pod := func(name, resources string) (*corev1.Pod, error) {
		return s.c.CoreV1().Pods(s.ns).Create(s.ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *read[corev1.PodSpec](t, "schedulerName: nobody\ncontainers: [{name: c, image: x, resources: "+resources+"}]")}, metav1.CreateOptions{})
	}
	for name, want := range map[string][2]string{"none": {"{}", "100m 200Mi 500m 500Mi"}, "partial": {"{requests: {cpu: 60m}, limits: {memory: 300Mi}}", "60m 300Mi 500m 300Mi"}} {
		p, err := pod(name, want[0])
		fine(t, err)
		r := p.Spec.Containers[0].Resources
		if got := fmt.Sprintf("%s %s %s %s", r.Requests.Cpu(), r.Requests.Memory(), r.Limits.Cpu(), r.Limits.Memory()); got != want[1] {
			t.Errorf("%s: %s, want %s", name, got, want[1])
		}
	}
	for name, want := range map[string][2]string{
		"little": {"{requests: {cpu: 10m}}", "minimum cpu usage per Container is 50m, but request is 10m"}, "much": {"{limits: {cpu: 600m}}", "maximum cpu usage per Container is 500m, but limit is 600m"},
	} {
		if _, err := pod(name, want[0]); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want[1]) {
			t.Errorf("%v", err)
		}
	}
	r.Spec.Limits[0].Min[corev1.ResourceCPU] = resource.MustParse("9m")
	_, err = ranges.Update(s.ctx, r, metav1.UpdateOptions{})
	fine(t, err)
	_, err = pod("little", "{requests: {cpu: 10m}}")
	fine(t, err)
	fine(t, ranges.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "e2e=range"}))
	_, err = pod("free", "{limits: {cpu: 600m}}")
	fine(t, err)
}

// signingRequest is a request for a certificate, in PEM.
func signingRequest(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fine(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "e2e"}}, key)
	fine(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
