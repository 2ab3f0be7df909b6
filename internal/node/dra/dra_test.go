package dra

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	drapbv1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/node/plugins"
	"github.com/celox/celox/test/dradriver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const driverName = "toys.example.com"

// bench is a node's manager with a watcher, and a driver that may register.
type bench struct {
	*testing.T
	client *fake.Clientset
	clock  *testclock.FakeClock
	dir    string
	// changed are the pods that were told of.
	changed chan types.UID
	m       *Manager
	stop    func()
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	// Paths of sockets must be short.
	dir, err := os.MkdirTemp("", "dra")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, client: fake.NewClientset(objects...), clock: testclock.NewFakeClock(time.Now()), dir: dir, changed: make(chan types.UID, 1000)}
	t.Cleanup(func() {
		b.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b.start()
	return b
}

// start starts the manager, as the node does; restart ends it before.
func (b *bench) start() {
	b.Helper()
	m, err := New(Config{NodeName: "n", Client: b.client, File: filepath.Join(b.dir, "state"), Clock: b.clock, Log: slog.New(slog.DiscardHandler), Changed: func(uid types.UID) { b.changed <- uid }})
	if err != nil {
		b.Fatal(err)
	}
	b.m = m
	w := plugins.New(plugins.Config{Dir: b.registry(), Handlers: map[string]plugins.Handler{registerapi.DRAPlugin: m}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	managed, watched := make(chan struct{}), make(chan error, 1)
	go func() { defer close(managed); m.Run(ctx) }()
	go func() { watched <- w.Run(ctx) }()
	b.stop = func() {
		cancel()
		<-managed
		if err := <-watched; err != nil {
			b.Error(err)
		}
	}
}

func (b *bench) restart() { b.Helper(); b.stop(); b.start() }

func (b *bench) registry() string { return filepath.Join(b.dir, "reg") }

// driver starts a driver.
func (b *bench) driver(change func(*dradriver.Config)) *dradriver.Driver {
	b.Helper()
	cfg := dradriver.Config{Name: driverName, Registry: b.registry(), Dir: filepath.Join(b.dir, "own"), CDI: filepath.Join(b.dir, "cdi"),
		Claim: func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
			return b.client.ResourceV1().ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		}}
	if change != nil {
		change(&cfg)
	}
	d, err := dradriver.Start(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Stop(); err != nil {
			b.Error(err)
		}
	})
	return d
}

// registered waits for what the driver is told.
func (b *bench) registered(d *dradriver.Driver) *registerapi.RegistrationStatus {
	b.Helper()
	select {
	case st := <-d.Told():
		return st
	case <-time.After(time.Minute):
		b.Fatal("nobody asked the driver")
		return nil
	}
}

// until waits for something to be so.
func (b *bench) until(what string, f func() bool) {
	b.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("never so: %s", what)
		}
	}
}

func allocated(name string, pods ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("claim-" + name)}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r/big", Driver: driverName, Pool: "n", Device: "toy-0"},
	}}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	return c
}

func podWith(name, claim string, uses ...corev1.ResourceClaim) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{
		ResourceClaims: []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: &claim}},
		Containers:     []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Claims: uses}}},
	}}
}

func (b *bench) wants(text string, err error) {
	b.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		b.Errorf("error %v, want %q", err, text)
	}
}

// TestPrepare: a claim is prepared once for all of its pods, and given back when the last one is over, also if the node was started again meanwhile.
func TestPrepare(t *testing.T) {
	b := newBench(t, allocated("c", "p", "q"))
	p, q := podWith("p", "c", corev1.ResourceClaim{Name: "d"}), podWith("q", "c", corev1.ResourceClaim{Name: "d", Request: "r"})
	b.wants("DRA driver toys.example.com is not registered", b.m.Prepare(t.Context(), p))
	if err := b.m.Unprepare(t.Context(), p.UID); err != nil {
		t.Errorf("a pod cannot go whose driver never was here: %v", err)
	}
	if _, err := b.m.Devices(p, &p.Spec.Containers[0]); err == nil {
		t.Error("devices of a claim that isn't prepared")
	}
	d := b.driver(nil)
	if st := b.registered(d); !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	d.Fail(errors.New("out of glue"))
	b.wants("NodePrepareResources of driver toys.example.com failed for ResourceClaim c: out of glue", b.m.Prepare(t.Context(), p))
	d.Fail(nil)
	for _, pod := range []*corev1.Pod{p, q, p} {
		if err := b.m.Prepare(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	b.restart()
	b.registered(d)
	for _, tt := range []struct {
		request string
		want    []string
	}{{"", []string{"toys.example.com/toy=claim-c"}}, {"r", []string{"toys.example.com/toy=claim-c"}}, {"r/big", []string{"toys.example.com/toy=claim-c"}}, {"other", nil}} {
		pod := podWith("q", "c", corev1.ResourceClaim{Name: "d", Request: tt.request})
		got, err := b.m.Devices(pod, &pod.Spec.Containers[0])
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("request %q: %v, %v", tt.request, got, err)
		}
	}
	if err := b.m.Unprepare(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	d.Fail(errors.New("stuck"))
	b.wants("NodeUnprepareResources of driver toys.example.com failed for ResourceClaim c: stuck", b.m.Unprepare(t.Context(), "q"))
	d.Fail(nil)
	if err := b.m.Unprepare(t.Context(), "q"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"prepare c", "prepare c", "unprepare c", "unprepare c"}; !slices.Equal(d.Calls(), want) {
		t.Errorf("calls %v", d.Calls())
	}
	if len(d.Prepared()) != 0 {
		t.Errorf("still prepared: %v", d.Prepared())
	}
	if data, err := os.ReadFile(filepath.Join(b.dir, "state")); err != nil || string(data) != `{"version":1,"claims":null}` {
		t.Errorf("%s, %v", data, err)
	}
	if err := b.m.Unprepare(t.Context(), "q"); err != nil {
		t.Error(err)
	}
}

// TestOlderDriver: a driver that speaks v1beta1 only is asked in its words.
func TestOlderDriver(t *testing.T) {
	b := newBench(t, allocated("c", "p"))
	d := b.driver(func(c *dradriver.Config) { c.Versions = []string{drapbv1beta1.DRAPluginService} })
	if st := b.registered(d); !st.PluginRegistered {
		t.Fatal(st.Error)
	}
	p := podWith("p", "c", corev1.ResourceClaim{Name: "d"})
	if err := b.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got, err := b.m.Devices(p, &p.Spec.Containers[0]); err != nil || !slices.Equal(got, []string{"toys.example.com/toy=claim-c"}) {
		t.Errorf("%v, %v", got, err)
	}
	if err := b.m.Unprepare(t.Context(), "p"); err != nil || !slices.Equal(d.Calls(), []string{"prepare c", "unprepare c"}) {
		t.Errorf("%v, %v", d.Calls(), err)
	}
}

// TestExtendedResources: a claim that the scheduler made for a pod's extended resources is for the containers that asked for them.
func TestExtendedResources(t *testing.T) {
	p := podWith("p", "none")
	p.Spec.ResourceClaims = nil
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "other"})
	c := allocated("c", "p")
	b := newBench(t, c)
	d := b.driver(nil)
	b.registered(d)
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c", RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "c", ResourceName: "example.com/toy", RequestName: "r"}}}
	b.wants("Pod is not owner", b.m.Prepare(t.Context(), p))
	c = c.DeepCopy()
	c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}
	if _, err := b.client.ResourceV1().ResourceClaims("ns").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.m.Prepare(t.Context(), p); err != nil || !Uses(p) {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		if got, err := b.m.Devices(p, &p.Spec.Containers[i]); err != nil || len(got) != want {
			t.Errorf("container %d: %v, %v", i, got, err)
		}
	}
	if err := b.m.Unprepare(t.Context(), "p"); err != nil || len(d.Prepared()) != 0 {
		t.Error(err)
	}
}

func TestPrepareRefuses(t *testing.T) {
	free := allocated("free", "p")
	free.Status.Allocation = nil
	b := newBench(t, allocated("foreign", "other"), free, allocated("made", "p"))
	template := podWith("p", "made")
	template.Spec.ResourceClaims[0] = corev1.PodResourceClaim{Name: "d", ResourceClaimTemplateName: &template.Name}
	b.wants("ResourceClaim not created yet", b.m.Prepare(t.Context(), template))
	made := "made"
	template.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "d", ResourceClaimName: &made}}
	b.wants("ResourceClaim ns/made was not created for Pod ns/p (Pod is not owner)", b.m.Prepare(t.Context(), template))
	template.Status.ResourceClaimStatuses[0].ResourceClaimName = nil
	if err := b.m.Prepare(t.Context(), template); err != nil {
		t.Error(err)
	}
	b.wants("resource claim ns/free is not allocated", b.m.Prepare(t.Context(), podWith("p", "free")))
	b.wants("pod p (p) is not allowed to use ResourceClaim foreign (claim-foreign)", b.m.Prepare(t.Context(), podWith("p", "foreign")))
	b.wants(`"gone" not found`, b.m.Prepare(t.Context(), podWith("p", "gone")))
}

// TestLeftovers: what pods left that went while the node was away is undone as soon as the driver is there.
func TestLeftovers(t *testing.T) {
	b := newBench(t, allocated("c", "p"))
	d := b.driver(nil)
	b.registered(d)
	if err := b.m.Prepare(t.Context(), podWith("p", "c")); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.m.KeepOnly(func(types.UID) bool { return false })
	b.until("unprepared", func() bool { b.clock.Step(time.Second); return len(d.Prepared()) == 0 })
}

// TestSlicesGo: what a driver published is deleted when it has been gone for a while, but not if it came back; what is of other nodes stays.
func TestSlicesGo(t *testing.T) {
	other := dradriver.Slice("other.example.com", "n", "x")
	elsewhere := dradriver.Slice(driverName, "m", "x")
	b := newBench(t, dradriver.Slice(driverName, "n", "toy-0"), other, elsewhere)
	d := b.driver(nil)
	b.registered(d)
	slices := func() string {
		list, err := b.client.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return strings.Join(names, " ")
	}
	// The other driver never came after the node's start.
	b.until("the slice of a driver that never came is gone", func() bool { b.clock.Step(time.Second); return slices() == "m-toys.example.com n-toys.example.com" })
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	b.until("deregistered", func() bool { return !b.m.drivers.registered(driverName) })
	again := b.driver(nil)
	b.registered(again)
	b.clock.Step(time.Hour)
	if err := b.m.Prepare(t.Context(), podWith("p", "none")); err == nil {
		t.Error("a claim that isn't there was prepared")
	}
	if got := slices(); got != "m-toys.example.com n-toys.example.com" {
		t.Errorf("slices %s", got)
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	b.until("the slice is gone", func() bool { b.clock.Step(time.Second); return slices() == "m-toys.example.com" })
}

// TestRegistrationIsRefused: a driver that speaks nothing that we do is told so, again and again.
func TestRegistrationIsRefused(t *testing.T) {
	b := newBench(t)
	d := b.driver(func(c *dradriver.Config) { c.Versions = []string{"v7.DRAPlugin"} })
	for range 2 {
		if st := b.registered(d); st.PluginRegistered || !strings.Contains(st.Error, "supports none of the services that this node speaks (v1.DRAPlugin, v1beta1.DRAPlugin): [v7.DRAPlugin]") {
			t.Errorf("%v", st)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"claims":[{"uid":"u","namespace":"ns","name":"c","pods":["p"],"drivers":{"d":[{"pool":"n","name":"x","cdi":["a/b=c"]}]},"prepared":true}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"claims":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		claims, err := load(file)
		if err != nil {
			return
		}
		for uid, c := range claims {
			if c.UID != uid || c.Drivers == nil {
				t.Errorf("%+v", c)
			}
		}
	})
}
