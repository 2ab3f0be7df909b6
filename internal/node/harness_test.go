package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/internal/node/pressure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testNode = "n1"

// rig is a node over a fake runtime and a fake API server.
type rig struct {
	t       *testing.T
	client  *fake.Clientset
	runtime *fakecri.Runtime
	root    string
	node    *Node
	stop    func()
	adjust  func(*Config)
	news    chan struct{} // see follow
}

func newRig(t *testing.T, objects ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, runtime: fakecri.New(), root: t.TempDir()}
	objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	r.client = fake.NewSimpleClientset(objects...)
	return r
}

// start starts a node in a bubble; stop ends it and waits for it.
func (r *rig) start() {
	r.t.Helper()
	r.startReal()
	synctest.Wait()
}

// startReal starts a node in real time.
func (r *rig) startReal() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	factory := informers.New(r.client)
	resolv := filepath.Join(r.root, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.1\nsearch example.org\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
	cfg := Config{
		NodeName: testNode, Client: r.client, Informers: factory, Runtime: r.runtime, Images: &fakecri.Images{Runtime: r.runtime},
		RootDir: filepath.Join(r.root, "node"), NodeIPs: []string{"192.0.2.10"}, ClusterDNS: []string{"10.96.0.10"}, ResolvConf: resolv,
		Register: true, Pressure: pressure.Thresholds{Off: true}, ImageGCHighPercent: 100, LogMaxBytes: -1,
	}
	if r.adjust != nil {
		r.adjust(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.node = n
	factory.StartWithContext(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.stop = func() {
		cancel()
		<-done
		factory.Shutdown()
	}
}

func (r *rig) create(pod *corev1.Pod) {
	r.t.Helper()
	if _, err := r.client.CoreV1().Pods(pod.Namespace).Create(r.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) get(name string) *corev1.Pod {
	r.t.Helper()
	pod, err := r.client.CoreV1().Pods("default").Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return pod
}

func (r *rig) exists(name string) bool {
	_, err := r.client.CoreV1().Pods("default").Get(r.t.Context(), name, metav1.GetOptions{})
	return err == nil
}

// remove begins a graceful deletion, as the API server does.
func (r *rig) remove(name string, grace int64) {
	r.t.Helper()
	pod := r.get(name)
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	if _, err := r.client.CoreV1().Pods("default").Update(r.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) events(reason string) []string {
	r.t.Helper()
	// Time stands still in a bubble: events of one moment get the same name, and only the first is stored.
	var out []string
	for _, a := range r.client.Actions() {
		c, ok := a.(clienttesting.CreateAction)
		if !ok {
			continue
		}
		if e, ok := c.GetObject().(*corev1.Event); ok && e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func (r *rig) wantEvent(reason, message string) {
	r.t.Helper()
	for _, m := range r.events(reason) {
		if strings.Contains(m, message) {
			return
		}
	}
	r.t.Errorf("no event %s with %q; have %q", reason, message, r.events(reason))
}

func testPod(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Generation: 1},
		Spec: corev1.PodSpec{
			NodeName: testNode, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "c", Image: "web:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort},
	}
	for _, e := range edit {
		e(pod)
	}
	return pod
}

func condition(pod *corev1.Pod, t corev1.PodConditionType) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == t {
			return fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return "none"
}

func waiting(t *testing.T, cs corev1.ContainerStatus, reason, message string) {
	t.Helper()
	if cs.State.Waiting == nil || cs.State.Waiting.Reason != reason || !strings.Contains(cs.State.Waiting.Message, message) {
		t.Errorf("container %s: state %+v, want waiting for %s with %q", cs.Name, describeState(cs.State), reason, message)
	}
}

func describeState(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return fmt.Sprintf("waiting %s: %s", s.Waiting.Reason, s.Waiting.Message)
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated %s %d %q", s.Terminated.Reason, s.Terminated.ExitCode, s.Terminated.Message)
	}
	return "none"
}
