package apiserver

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

// listen serves s on a loopback port and returns a client that talks in the given content type.
func listen(t *testing.T, s *Server, contentType string) kubernetes.Interface {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = srv.Close()
		<-done
	})
	cs, err := kubernetes.NewForConfig(&rest.Config{
		Host: "http://" + l.Addr().String(), QPS: -1, UserAgent: "tester/1", Transport: transport,
		ContentConfig: rest.ContentConfig{ContentType: contentType, AcceptContentTypes: contentType},
	})
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func TestClientGo(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(contentType, func(t *testing.T) {
			cs := listen(t, newServer(t), contentType)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			configMaps := cs.CoreV1().ConfigMaps("n")

			made, err := configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "made-"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() || !strings.HasPrefix(made.Name, "made-") || len(made.ManagedFields) != 1 {
				t.Fatalf("incomplete: %+v", made.ObjectMeta)
			}
			w, err := configMaps.Watch(ctx, metav1.ListOptions{ResourceVersion: made.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			next := made.DeepCopy()
			next.Data["k"] = "w"
			updated, err := configMaps.Update(ctx, next, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := configMaps.Update(ctx, next, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Fatalf("an update of an old state: %v", err)
			}
			if _, err := configMaps.Patch(ctx, made.Name, types.StrategicMergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			applied, err := configMaps.Apply(ctx, corev1apply.ConfigMap("applied", "n").WithData(map[string]string{"a": "b"}), metav1.ApplyOptions{FieldManager: "m"})
			if err != nil || applied.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
				t.Fatalf("%v %+v", err, applied)
			}
			list, err := configMaps.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 || list.ResourceVersion == "" {
				t.Fatalf("%v, %d items", err, len(list.Items))
			}
			if err := configMaps.Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("wrong")}); !apierrors.IsConflict(err) {
				t.Fatalf("a wrong uid: %v", err)
			}
			if err := configMaps.Delete(ctx, made.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := configMaps.Get(ctx, made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Fatalf("after the deletion: %v", err)
			}
			want := []watch.EventType{watch.Modified, watch.Modified, watch.Added, watch.Deleted}
			for i, typ := range want {
				select {
				case e := <-w.ResultChan():
					m, ok := e.Object.(*corev1.ConfigMap)
					if e.Type != typ || !ok {
						t.Fatalf("event %d: %s %T, want %s", i, e.Type, e.Object, typ)
					}
					if i == 0 && m.ResourceVersion != updated.ResourceVersion {
						t.Fatalf("event %d has revision %s, want %s", i, m.ResourceVersion, updated.ResourceVersion)
					}
				case <-ctx.Done():
					t.Fatalf("no event %d", i)
				}
			}
		})
	}
}

func TestInformer(t *testing.T) {
	cs := listen(t, newServer(t), "application/vnd.kubernetes.protobuf")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	f := informers.New(cs)
	pods := f.Core().V1().Pods()
	seen := make(chan string, 10)
	_, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) {
		if p, ok := o.(*corev1.Pod); ok {
			seen <- p.Name
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	if _, err := cs.CoreV1().Pods("n").Create(ctx, pod("before"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.StartWithContext(ctx)
	defer f.Shutdown()
	defer cancel()
	f.WaitForCacheSync(ctx)
	if _, err := cs.CoreV1().Pods("n").Create(ctx, pod("after"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before", "after"} {
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("saw %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("never saw %s", want)
		}
	}
}

func TestBindingAndEviction(t *testing.T) {
	server := newServer(t)
	cs := listen(t, server, "application/json")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pods := cs.CoreV1().Pods("n")
	if _, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"status":{"nominatedNodeName":"node-2"}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "node-1"}}
	if err := pods.Bind(ctx, bind, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.Bind(ctx, bind, metav1.CreateOptions{}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `pod p is already assigned to node "node-1"`) {
		t.Fatalf("bound twice: %v", err)
	}
	p, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || p.Spec.NodeName != "node-1" || p.Status.NominatedNodeName != "" || len(p.Status.Conditions) != 1 {
		t.Fatalf("%v %+v", err, p)
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
	if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	budget, err = cs.PolicyV1().PodDisruptionBudgets("n").Create(ctx, budget, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// client-go waits as long as it is told to, so the refusals are asked for by hand.
	evict := func(code int) map[string]any {
		return want(t, server.Handler(), code, "POST", "/api/v1/namespaces/n/pods/p/eviction", `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"p"}}`)
	}
	if s := evict(429); at(s, "details", "retryAfterSeconds") != 10.0 {
		t.Fatalf("an unseen budget: %v", s)
	}
	budget.Status.ObservedGeneration = budget.Generation
	if budget, err = cs.PolicyV1().PodDisruptionBudgets("n").UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := evict(429); at(s, "details", "causes", 0, "reason") != "DisruptionBudget" {
		t.Fatalf("an empty budget: %v", s)
	}
	budget.Status.DisruptionsAllowed = 1
	if _, err = cs.PolicyV1().PodDisruptionBudgets("n").UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict(201)
	p, err = pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("after the eviction: %v %+v", err, p.ObjectMeta)
	}
	budget, err = cs.PolicyV1().PodDisruptionBudgets("n").Get(ctx, "b", metav1.GetOptions{})
	if err != nil || budget.Status.DisruptionsAllowed != 0 || len(budget.Status.DisruptedPods) != 1 {
		t.Fatalf("%v %+v", err, budget.Status)
	}
	var zero int64
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestScale(t *testing.T) {
	h := newServer(t).Handler()
	const deployments = "/apis/apps/v1/namespaces/n/deployments"
	want(t, h, 201, "POST", deployments, `{"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	s := want(t, h, 200, "GET", deployments+"/d/scale", "")
	if at(s, "spec", "replicas") != 2.0 || at(s, "status", "selector") != "a=b" || at(s, "kind") != "Scale" {
		t.Fatal(s)
	}
	s = want(t, h, 200, "PATCH", deployments+"/d/scale", `{"spec":{"replicas":5}}`, "Content-Type", "application/merge-patch+json", "User-Agent", "scaler/1")
	if at(s, "spec", "replicas") != 5.0 {
		t.Fatal(s)
	}
	d := want(t, h, 200, "GET", deployments+"/d", "")
	if at(d, "spec", "replicas") != 5.0 || at(d, "metadata", "generation") != 2.0 {
		t.Fatal(d)
	}
	found := false
	for _, e := range at(d, "metadata", "managedFields").([]any) {
		found = found || at(e, "manager") == "scaler" && at(e, "subresource") == "scale"
	}
	if !found {
		t.Fatalf("the scaler owns nothing: %v", at(d, "metadata", "managedFields"))
	}
	want(t, h, 422, "PUT", deployments+"/d/scale", `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d"},"spec":{"replicas":-1}}`)
	want(t, h, 409, "PUT", deployments+"/d/scale", `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d","resourceVersion":"1"},"spec":{"replicas":1}}`)
}

// TestProfiles: what runs can be asked where its memory and time go, as upstream's server can.
func TestProfiles(t *testing.T) {
	s := newServer(t).Handler()
	if got := call(t, s, "GET", "/debug/pprof/heap?debug=1", ""); got.Code != 200 || !strings.HasPrefix(got.Body.String(), "heap profile: ") {
		t.Errorf("heap: %d\n%.100s", got.Code, got.Body)
	}
	if got := call(t, s, "GET", "/debug/pprof/goroutine?debug=2", ""); got.Code != 200 || !strings.Contains(got.Body.String(), "TestProfiles") {
		t.Errorf("goroutine: %d\n%.100s", got.Code, got.Body)
	}
	for path, code := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/nothing": 404, "/debug": 404, "/debug/other": 404} {
		if got := call(t, s, "GET", path, ""); got.Code != code {
			t.Errorf("%s: %d, want %d", path, got.Code, code)
		}
	}
}
