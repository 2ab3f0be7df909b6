package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

// TestClientGoInformer follows a pod through its life with an informer, as an operator does.
func TestClientGoInformer(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(u.client(), 0, informers.WithNamespace(u.ns))
	phases, gone := make(chan corev1.PodPhase, 100), make(chan struct{})
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { phases <- obj.(*corev1.Pod).Status.Phase },
		UpdateFunc: func(_, obj any) { phases <- obj.(*corev1.Pod).Status.Phase },
		DeleteFunc: func(any) { close(gone) },
	})
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown() // after cancel
	defer cancel()
	factory.WaitForCacheSync(ctx.Done())
	pods := u.client().CoreV1().Pods(u.ns)
	zero := int64(0)
	_, err = pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{Name: "c", Image: busybox, Command: []string{"true"}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var seen []corev1.PodPhase
	for len(seen) == 0 || seen[len(seen)-1] != corev1.PodSucceeded {
		select {
		case phase := <-phases:
			if len(seen) == 0 || seen[len(seen)-1] != phase {
				seen = append(seen, phase)
			}
		case <-ctx.Done():
			t.Fatalf("saw %v", seen)
		}
	}
	if seen[0] != corev1.PodPending || len(seen) > 3 {
		t.Errorf("saw %v", seen)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-ctx.Done():
		t.Error("the informer did not see the deletion")
	}
}

// TestClientGoConflicts counts in one object from many clients: none of their updates may be lost.
func TestClientGoConflicts(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	const clients, each = 4, 20
	ctx := t.Context()
	maps := u.client().CoreV1().ConfigMaps(u.ns)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, clients)
	backoff := retry.DefaultRetry
	backoff.Steps = 1000
	var done sync.WaitGroup
	for i := range clients {
		done.Go(func() {
			for range each {
				errs[i] = errors.Join(errs[i], retry.RetryOnConflict(backoff, func() error {
					m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(m.Data["n"])
					if err != nil {
						return err
					}
					m.Data["n"] = strconv.Itoa(n + 1)
					_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
					return err
				}))
			}
		})
	}
	done.Wait()
	m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	if m.Data["n"] != strconv.Itoa(clients*each) {
		t.Errorf("counted to %s, want %d", m.Data["n"], clients*each)
	}
}

// TestClientGoContentTypes speaks JSON and protobuf, lists in pages and watches from a revision on.
func TestClientGoContentTypes(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(contentType, func(t *testing.T) {
			config, err := u.m.RESTConfig()
			if err != nil {
				t.Fatal(err)
			}
			config.ContentType = contentType
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			secrets := c.CoreV1().Secrets(u.ns)
			for i := range 5 {
				s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, StringData: map[string]string{"k": "v"}}
				if _, err := secrets.Create(ctx, s, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			first, err := secrets.List(ctx, metav1.ListOptions{Limit: 3})
			if err != nil || len(first.Items) != 3 || first.Continue == "" || string(first.Items[0].Data["k"]) != "v" {
				t.Fatalf("the first page: %+v %v", first, err)
			}
			rest, err := secrets.List(ctx, metav1.ListOptions{Limit: 3, Continue: first.Continue})
			if err != nil || len(rest.Items) != 2 || rest.Continue != "" || rest.ResourceVersion != first.ResourceVersion {
				t.Fatalf("the second page: %+v %v", rest, err)
			}
			w, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			if _, err := secrets.Patch(ctx, "s1", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "a=b"}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"MODIFIED s1", "DELETED s1"} {
				select {
				case e := <-w.ResultChan():
					s, ok := e.Object.(*corev1.Secret)
					if !ok || string(e.Type)+" "+s.Name != want {
						t.Fatalf("the watch says %s %+v, want %s", e.Type, e.Object, want)
					}
				case <-ctx.Done():
					t.Fatalf("the watch did not say %s", want)
				}
			}
			if _, err := secrets.Get(ctx, "s1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("s1 is still there: %v", err)
			}
			if err := secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestClientGoToken uses the API as a service account, with a token that was asked for.
func TestClientGoToken(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.kubectl("create", "serviceaccount", "robot")
	u.kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
	u.kubectl("create", "rolebinding", "robot", "--role=reader", "--serviceaccount="+u.ns+":robot")
	config, err := u.m.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	config.CertData, config.KeyData, config.CertFile, config.KeyFile = nil, nil, "", ""
	config.BearerToken = u.kubectl("create", "token", "robot")
	config.Timeout = 30 * time.Second
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Pods(u.ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := c.CoreV1().Secrets(u.ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets: %v", err)
	}
	config.BearerToken += "AAAA"
	if c, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Pods(u.ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a bad token: %v", err)
	}
}
