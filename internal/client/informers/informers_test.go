package informers_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFactory(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	client := fake.NewClientset(pod, node)
	changes := watch.NewFake()
	client.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) { return true, changes, nil })
	f := informers.New(client)

	pods := f.Core().V1().Pods()
	if pods.Informer() != f.Core().V1().Pods().Informer() {
		t.Error("two informers of pods")
	}
	seen := make(chan string, 2)
	if _, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) { seen <- o.(*corev1.Pod).Name }}); err != nil {
		t.Fatal(err)
	}
	f.StartWithContext(ctx)
	nodes := f.Core().V1().Nodes().Lister() // asked for after the first start
	f.StartWithContext(ctx)
	if !f.WaitForCacheSync(ctx) {
		t.Fatal("not synced")
	}
	if got, err := pods.Lister().Pods("a").Get("p"); err != nil || got.Name != "p" {
		t.Errorf("pod: %v, %v", got, err)
	}
	if got, err := nodes.Get("n"); err != nil || got.Name != "n" {
		t.Errorf("node: %v, %v", got, err)
	}
	changes.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "q"}}) // waits until the informer watches
	for range 2 {
		<-seen // p of the list, q of the watch
	}
	cancel()
	f.Shutdown()
}
