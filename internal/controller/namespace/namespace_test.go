package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/rootca"
	"github.com/celox/celox/internal/controller/serviceaccount"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A namespace gets its account and the CA, and is emptied before it goes, whatever holds an object up.
func TestLifeOfANamespace(t *testing.T) {
	e := controllertest.Start(t)
	resources := func() []schema.GroupVersionResource {
		var out []schema.GroupVersionResource
		for _, k := range e.Catalogue.Kinds() {
			if k.Namespaced && !k.Virtual {
				out = append(out, controllertest.Preferred(k))
			}
		}
		return out
	}
	var contents []cache.SharedIndexInformer
	for _, src := range e.Sources {
		contents = append(contents, client.InformerFor(e.Informers, src))
	}
	var missing atomic.Bool // another server, whose resources nobody knows
	known := func() ([]schema.GroupVersionResource, error) {
		if missing.Load() {
			gv := schema.GroupVersion{Group: "example.com", Version: "v1"}
			return resources(), &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{gv: errors.New("no answer")}}
		}
		return resources(), nil
	}
	ctl, err := New(e.Client, e.Metadata, known, contents, e.Informers, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := serviceaccount.New(e.Client, e.Informers, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := rootca.New(e.Client, e.Informers, []byte("PEM"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl, accounts, ca)
	ctx := context.Background()
	if _, err := e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	maps := e.Client.CoreV1().ConfigMaps("n")
	published := func() error {
		cm, err := maps.Get(ctx, rootca.Name, metav1.GetOptions{})
		if err == nil && cm.Data["ca.crt"] != "PEM" {
			return fmt.Errorf("data %v", cm.Data)
		}
		return err
	}
	account := func() error {
		_, err := e.Client.CoreV1().ServiceAccounts("n").Get(ctx, "default", metav1.GetOptions{})
		return err
	}
	controllertest.Eventually(t, published)
	controllertest.Eventually(t, account)
	// What somebody breaks is mended.
	if _, err := maps.Patch(ctx, rootca.Name, types.MergePatchType, []byte(`{"data":{"ca.crt":"x"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, published)
	if err := e.Client.CoreV1().ServiceAccounts("n").Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, account)

	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/wait"}}}
	if _, err := maps.Create(ctx, held, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	missing.Store(true)
	if err := e.Client.CoreV1().Namespaces().Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		ns, err := e.Client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "example.com/wait in 1 resource instances") {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", ns.Status.Conditions)
	})
	if _, err := maps.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	// All that is known is gone, but who knows what the other server has: the namespace stays until that is known.
	controllertest.Eventually(t, func() error {
		ns, err := e.Client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		said, empty := false, false
		for _, c := range ns.Status.Conditions {
			said = said || c.Type == corev1.NamespaceDeletionDiscoveryFailure && c.Status == corev1.ConditionTrue && c.Reason == "DiscoveryFailed" &&
				strings.HasPrefix(c.Message, "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: example.com/v1: no answer")
			empty = empty || c.Type == corev1.NamespaceContentRemaining && c.Status == corev1.ConditionFalse
		}
		if !said || !empty {
			return fmt.Errorf("conditions %+v", ns.Status.Conditions)
		}
		return nil
	})
	missing.Store(false)
	controllertest.Eventually(t, func() error {
		_, err := e.Client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the namespace is there (%v)", err)
	})
}

// While a pod runs, what limits it stays.
func TestPodsGoFirst(t *testing.T) {
	e := controllertest.Start(t)
	var resources []schema.GroupVersionResource
	var contents []cache.SharedIndexInformer
	for _, s := range e.Sources {
		if k, ok := e.Catalogue.ByGroupResource(s.GroupResource); ok && k.Namespaced {
			resources, contents = append(resources, controllertest.Preferred(k)), append(contents, client.InformerFor(e.Informers, s))
		}
	}
	ctl, err := New(e.Client, e.Metadata, func() ([]schema.GroupVersionResource, error) { return resources, nil }, contents, e.Informers, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(e.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}))
	pods, policies := e.Client.CoreV1().Pods("n"), e.Client.NetworkingV1().NetworkPolicies("n")
	must(policies.Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, metav1.CreateOptions{}))
	must(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Finalizers: []string{"example.com/wait"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}))
	if err := e.Client.CoreV1().Namespaces().Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		ns, err := e.Client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceContentRemaining && c.Status == corev1.ConditionTrue && c.Message == "Some resources are remaining: pods. has 1 resource instances" {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", ns.Status.Conditions)
	})
	must(policies.Get(ctx, "p", metav1.GetOptions{}))
	must(pods.Patch(ctx, "p", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	controllertest.Eventually(t, func() error {
		_, err := e.Client.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the namespace is there (%v)", err)
	})
}

func TestApart(t *testing.T) {
	a, b := errors.New("a"), errors.New("b")
	if got := apart(errors.Join(errors.Join(nil, a), nil, fmt.Errorf("delete: %w", b))); !slices.Equal(got, []string{"a", "delete: b"}) {
		t.Errorf("got %q", got)
	}
}
