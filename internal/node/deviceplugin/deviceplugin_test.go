package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/node/plugins"
	fake "github.com/celox/celox/test/deviceplugin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const toys = "example.com/toy"

// patience bounds what has to happen; it is no measurement.
const patience = time.Minute

// waitedClock tells when somebody begins to wait.
type waitedClock struct {
	*testclock.FakeClock
	waits chan struct{} // capacity 1
}

func (c *waitedClock) NewTimer(d time.Duration) clock.Timer {
	t := c.FakeClock.NewTimer(d)
	select {
	case c.waits <- struct{}{}:
	default: // whoever listens has not looked since the last one
	}
	return t
}

// bench is a node's manager with a watcher.
type bench struct {
	*testing.T
	clock *waitedClock
	dir   string
	// changed are the pods that were told of.
	changed chan types.UID
	ending  map[types.UID]bool // only changed while nobody asks
	m       *Manager
	stop    func()
}

func newBench(t *testing.T) *bench {
	dir, err := os.MkdirTemp("", "dp") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, clock: &waitedClock{testclock.NewFakeClock(time.Now()), make(chan struct{}, 1)}, dir: dir, changed: make(chan types.UID, 1000), ending: map[types.UID]bool{}}
	t.Cleanup(func() {
		b.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b.start()
	return b
}

func (b *bench) own() string      { return filepath.Join(b.dir, "own") }
func (b *bench) registry() string { return filepath.Join(b.dir, "reg") }

// start starts the manager, as the node does; restart ends it before.
func (b *bench) start() {
	b.Helper()
	m, err := New(Config{
		Dir: b.own(), File: filepath.Join(b.dir, "state"), Clock: b.clock, Log: slog.New(slog.DiscardHandler), NodeChanged: func() {},
		PodChanged: func(uid types.UID) { b.changed <- uid }, Ending: func(uid types.UID) bool { return b.ending[uid] },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.m = m
	served, err := fsnotify.NewWatcher()
	if err == nil {
		defer served.Close()
		err = errors.Join(os.MkdirAll(b.own(), 0o750), served.Add(b.own()))
	}
	if err != nil {
		b.Fatal(err)
	}
	w := plugins.New(plugins.Config{Dir: b.registry(), Handlers: map[string]plugins.Handler{registerapi.DevicePlugin: m}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
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
	// Before that, the sockets of plugins are taken away.
	for late := time.After(patience); ; {
		select {
		case e := <-served.Events:
			if e.Has(fsnotify.Create) && filepath.Base(e.Name) == Socket {
				return
			}
		case err := <-served.Errors:
			b.Fatal(err)
		case <-late:
			b.Fatal("nobody serves")
		}
	}
}

func (b *bench) restart() {
	b.Helper()
	b.stop()
	b.start()
}

// plugin starts a plugin that ends with the test, and waits until the node knows it.
func (b *bench) plugin(cfg fake.Config, devices ...*pluginapi.Device) *fake.Plugin {
	b.Helper()
	if cfg.Resource == "" {
		cfg.Resource = toys
	}
	if cfg.Dir = b.own(); cfg.Watched {
		cfg.Dir = b.registry()
	}
	p, err := fake.Start(cfg, devices...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Stop)
	b.registered(p)
	return p
}

func (b *bench) registered(p *fake.Plugin) {
	b.Helper()
	select {
	case err := <-p.Told():
		if err != nil {
			b.Fatal(err)
		}
	case <-time.After(patience):
		b.Fatal("the node doesn't register the plugin")
	}
}

// until waits until something is so.
func (b *bench) until(what string, so func() bool) {
	b.Helper()
	late := time.After(patience)
	for {
		b.m.mu.Lock()
		news := b.m.news
		b.m.mu.Unlock()
		if so() {
			return
		}
		select {
		case <-news:
		case <-late:
			b.Fatalf("never comes: %s", what)
		}
	}
}

// has waits until the node says that it has so many devices, of which so many can be had.
func (b *bench) has(capacity, allocatable int64) {
	b.Helper()
	b.until(fmt.Sprintf("%d devices, %d of them to be had", capacity, allocatable), func() bool {
		c, a := b.m.Capacity()
		all, there := c[toys]
		free := a[toys]
		return there && all.Value() == capacity && free.Value() == allocatable
	})
}

// pass lets time pass when somebody waits for that.
func (b *bench) pass(d time.Duration) {
	b.Helper()
	late := time.After(patience)
	for !b.clock.HasWaiters() {
		select {
		case <-b.clock.waits:
		case <-late:
			b.Fatal("nobody waits")
		}
	}
	b.clock.Step(d)
}

// counts are the metrics for the resource, with what they count.
func (b *bench) counts() (out []string) {
	b.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(b.m.Metrics()...)
	families, err := r.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); len(l) == 1 && l[0].GetName() == "resource_name" && l[0].GetValue() == toys {
				out = append(out, fmt.Sprint(f.GetName(), " ", m.GetCounter().GetValue()+float64(m.GetHistogram().GetSampleCount())))
			}
		}
	}
	return out
}

// asking is a container that asks for devices.
func asking(name string, n int64) corev1.Container {
	c := corev1.Container{Name: name}
	if n > 0 {
		c.Resources.Limits = corev1.ResourceList{toys: *apiresource.NewQuantity(n, apiresource.DecimalSI)}
	}
	return c
}

// pod is a pod whose one container asks for n devices.
func pod(name string, n int64) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: []corev1.Container{asking("c", n)}}}
}

// given are the devices of a container, in a text.
func (b *bench) given(pod, container string) string {
	var ids []string
	for _, d := range b.m.InUse(types.UID(pod), container) {
		ids = append(ids, d.ID)
	}
	return strings.Join(ids, " ")
}

func (b *bench) assign(p *corev1.Pod) {
	b.Helper()
	if err := b.m.Assign(b.Context(), p); err != nil {
		b.Fatal(err)
	}
}

// refused assigns what can't be, and compares what is said of it.
func (b *bench) refused(p *corev1.Pod, want string) {
	b.Helper()
	if err := b.m.Assign(b.Context(), p); err == nil || err.Error() != want {
		b.Errorf("%v\nwant %s", err, want)
	}
}

// TestComesAndGoes: what the node counts while a plugin changes its mind, dies, stays away and comes back.
func TestComesAndGoes(t *testing.T) {
	for _, watched := range []bool{false, true} {
		t.Run(fmt.Sprint("watched ", watched), func(t *testing.T) {
			b := newBench(t)
			p := b.plugin(fake.Config{Watched: watched}, append(fake.Healthy("a", "b"), &pluginapi.Device{ID: "c", Health: pluginapi.Unhealthy})...)
			b.has(3, 2)
			var ids []string
			for _, d := range b.m.Allocatable() {
				ids = append(ids, d.ID)
			}
			if !slices.Equal(ids, []string{"a", "b"}) {
				t.Errorf("allocatable are %v", ids)
			}
			p.Tell(fake.Healthy("a", "b", "c", "d")...)
			b.has(4, 4)
			second, err := fake.Start(fake.Config{Resource: toys, Dir: b.own()}, fake.Healthy("x")...) // as when a plugin is updated
			if err != nil {
				t.Fatal(err)
			}
			b.has(1, 1)
			second.Stop()
			b.has(4, 4)
			third, err := fake.Start(fake.Config{Resource: toys, Dir: b.own()}, fake.Healthy("x")...)
			if err != nil {
				t.Fatal(err)
			}
			b.has(1, 1)
			third.Stop()
			b.has(4, 4)
			want := "kubelet_device_plugin_registration_total 3"
			if watched {
				want = "kubelet_device_plugin_registration_total 2"
			}
			if got := b.counts(); !slices.Contains(got, want) {
				t.Errorf("%v, want %s", got, want)
			}
		})
	}
}

// TestComesBack: a plugin that begins anew at the same socket is there, however late the end of the one before is noticed.
func TestComesBack(t *testing.T) {
	for _, watched := range []bool{false, true} {
		t.Run(fmt.Sprint("watched ", watched), func(t *testing.T) {
			b := newBench(t)
			cfg := fake.Config{Resource: toys, Dir: b.own(), Watched: watched, Socket: "toys.sock"}
			if watched {
				cfg.Dir = b.registry()
			}
			var ids []string
			for i := range int64(8) {
				ids = append(ids, fmt.Sprint(i))
				p, err := fake.Start(cfg, fake.Healthy(ids...)...)
				if err != nil {
					t.Fatal(err)
				}
				b.registered(p)
				b.has(i+1, i+1)
				p.Stop()
			}
			b.has(8, 0)
		})
	}
}

// TestAway: the devices of a plugin that is gone are counted for five minutes, and none can be had; afterwards the node has none.
func TestAway(t *testing.T) {
	b := newBench(t)
	p, err := fake.Start(fake.Config{Resource: toys, Dir: b.own()}, fake.Healthy("a", "b")...)
	if err != nil {
		t.Fatal(err)
	}
	b.has(2, 2)
	p.Stop()
	b.has(2, 0)
	b.refused(pod("p", 1), "no healthy devices present; cannot allocate unhealthy devices "+toys)
	b.pass(goneGrace - time.Second)
	b.has(2, 0)
	b.pass(time.Second)
	b.has(0, 0)
	if b.m.Wants(pod("p", 1)) {
		t.Error("a resource that is gone is still given")
	}
	b.plugin(fake.Config{}, fake.Healthy("a")...)
	b.has(1, 1)
}

// TestRestart: after a restart plugins register again, and nothing is given twice.
func TestRestart(t *testing.T) {
	b := newBench(t)
	p := b.plugin(fake.Config{}, fake.Healthy("a", "b")...)
	b.has(2, 2)
	b.assign(pod("p", 1))
	b.stop()
	b.ending["gone"] = true
	b.start()
	b.registered(p)
	b.has(2, 2)
	if got := b.given("p", "c"); got != "a" {
		t.Fatalf("p has %q", got)
	}
	b.assign(pod("q", 1))
	if got := b.given("q", "c"); got != "b" {
		t.Errorf("q has %q", got)
	}
	b.refused(pod("r", 1), "requested number of devices unavailable for "+toys+". Requested: 1, Available: 0")
	if err := b.m.KeepOnly(func(uid types.UID) bool { return uid == "q" }); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.registered(p)
	b.has(2, 2)
	b.assign(pod("r", 1))
	if got := b.given("r", "c"); got != "a" {
		t.Errorf("r has %q", got)
	}
	if got, want := p.Calls(), []string{"allocate [a]", "allocate [b]", "allocate [a]"}; !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
}

// TestAfterABoot: a pod that had devices waits for their plugin, which is a pod itself perhaps. If it comes without them, or not at all, the pod can't stay; a new pod doesn't wait.
func TestAfterABoot(t *testing.T) {
	for name, tt := range map[string]struct {
		then func(b *bench)
		want string
	}{
		"it is all there": {func(b *bench) { b.plugin(fake.Config{}, fake.Healthy("a", "b")...) }, ""},
		"sick": {func(b *bench) { b.plugin(fake.Config{}, fake.Healthy("b")...) },
			"previously allocated devices are no longer healthy; cannot allocate unhealthy devices " + toys},
		"all sick": {func(b *bench) { b.plugin(fake.Config{}, &pluginapi.Device{ID: "a", Health: pluginapi.Unhealthy}) },
			"no healthy devices present; cannot allocate unhealthy devices " + toys},
		"never comes": {func(b *bench) { b.pass(goneGrace) }, "cannot allocate unregistered device " + toys},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			p, err := fake.Start(fake.Config{Resource: toys, Dir: b.own()}, fake.Healthy("a")...)
			if err != nil {
				t.Fatal(err)
			}
			b.has(1, 1)
			b.assign(pod("p", 1))
			b.stop()
			p.Stop()
			b.start()
			b.has(0, 0)
			b.refused(pod("new", 1), "no healthy devices present; cannot allocate unhealthy devices "+toys)
			done := make(chan error, 1)
			go func() { done <- b.m.Assign(t.Context(), pod("p", 1)) }()
			tt.then(b)
			select {
			case err := <-done:
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
					t.Errorf("%v, want %s", err, tt.want)
				}
			case <-time.After(patience):
				t.Fatal("the pod waits for ever")
			}
		})
	}
}

// TestRefusedRegistrations: what plugins are told that can't be taken.
func TestRefusedRegistrations(t *testing.T) {
	b := newBench(t)
	conn, err := grpc.NewClient("unix://"+filepath.Join(b.own(), Socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, tt := range []struct{ version, name, want string }{
		{"v1alpha", toys, `requested API version "v1alpha" is not supported by kubelet. Supported version is ["v1beta1"]`},
		{"v1beta1", "toy", `the ResourceName "toy" is invalid`},
		{"v1beta1", "kubernetes.io/toy", `the ResourceName "kubernetes.io/toy" is invalid`},
		{"v1beta1", "requests.example.com/toy", `the ResourceName "requests.example.com/toy" is invalid`},
		{"v1beta1", "example.com/a b", `the ResourceName "example.com/a b" is invalid`},
	} {
		_, err := pluginapi.NewRegistrationClient(conn).Register(t.Context(), &pluginapi.RegisterRequest{Version: tt.version, ResourceName: tt.name, Endpoint: "x.sock"}, grpc.WaitForReady(true))
		if err == nil || !strings.HasSuffix(err.Error(), "desc = "+tt.want) {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
	for _, tt := range []struct {
		p    plugins.Plugin
		want string
	}{
		{plugins.Plugin{Name: toys, Versions: []string{"v2"}}, "manager version, v1beta1, is not among plugin supported versions [v2]"},
		{plugins.Plugin{Name: "toy", Versions: []string{"v1beta1"}}, `invalid name of device plugin socket: the ResourceName "toy" is invalid`},
	} {
		if err := b.m.Register(tt.p); err == nil || err.Error() != tt.want {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
}

// TestWhoGetsWhat: containers of one pod after the other, with six devices.
func TestWhoGetsWhat(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := func(c corev1.Container) corev1.Container { c.RestartPolicy = &always; return c }
	for name, tt := range map[string]struct {
		init, main []corev1.Container
		claims     []corev1.ContainerExtendedResourceRequest
		want       []string
		refusal    string
	}{
		"one":                {main: []corev1.Container{asking("m", 1)}, want: []string{"m: a"}},
		"several":            {main: []corev1.Container{asking("m", 2), asking("n", 0), asking("o", 3)}, want: []string{"m: a b", "n: ", "o: c d e"}},
		"init, then less":    {init: []corev1.Container{asking("i", 3)}, main: []corev1.Container{asking("m", 1), asking("n", 1)}, want: []string{"i: a b c", "m: a", "n: b"}},
		"init, then more":    {init: []corev1.Container{asking("i", 1)}, main: []corev1.Container{asking("m", 3)}, want: []string{"i: a", "m: a b c"}},
		"init after init":    {init: []corev1.Container{asking("i", 2), asking("j", 3)}, main: []corev1.Container{asking("m", 3)}, want: []string{"i: a b", "j: a b c", "m: a b c"}},
		"a sidecar keeps":    {init: []corev1.Container{sidecar(asking("s", 2)), asking("i", 1)}, main: []corev1.Container{asking("m", 2)}, want: []string{"s: a b", "i: c", "m: c d"}},
		"a sidecar inherits": {init: []corev1.Container{asking("i", 2), sidecar(asking("s", 1))}, main: []corev1.Container{asking("m", 2)}, want: []string{"i: a b", "s: a", "m: b c"}},
		"too many": {main: []corev1.Container{asking("m", 5), asking("n", 2)}, want: []string{"m: a b c d e", "n: "},
			refusal: "requested number of devices unavailable for " + toys + ". Requested: 2, Available: 1"},
		"by a claim": {main: []corev1.Container{asking("m", 5), asking("n", 2)}, want: []string{"m: ", "n: a b"},
			claims: []corev1.ContainerExtendedResourceRequest{{ContainerName: "m", ResourceName: toys, RequestName: "r"}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.plugin(fake.Config{}, fake.Healthy("a", "b", "c", "d", "e", "f")...)
			b.has(6, 6)
			p := pod("p", 0)
			p.Spec.InitContainers, p.Spec.Containers = tt.init, tt.main
			if tt.claims != nil {
				p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: tt.claims}
			}
			for range 2 { // the second time it has all
				err := b.m.Assign(t.Context(), p)
				if tt.refusal == "" && err != nil || tt.refusal != "" && (err == nil || err.Error() != tt.refusal) {
					t.Errorf("%v, want %s", err, tt.refusal)
				}
				var got []string
				for _, c := range containers(p) {
					got = append(got, c.Name+": "+b.given("p", c.Name))
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%q, want %q", got, tt.want)
				}
			}
			if err := b.m.Release("p"); err != nil || b.m.Has("p", toys) {
				t.Errorf("not released: %v", err)
			}
			b.assign(pod("q", 6))
		})
	}
}

func TestOthers(t *testing.T) {
	b := newBench(t)
	if b.m.Wants(pod("p", 1)) {
		t.Error("a resource that no plugin has is given")
	}
	if o, err := b.m.Options(t.Context(), pod("p", 1), &pod("p", 1).Spec.Containers[0]); err != nil || len(o.Env)+len(o.Mounts) > 0 {
		t.Errorf("%v, %v", o, err)
	}
	b.plugin(fake.Config{}, fake.Healthy("a", "b")...)
	b.has(2, 2)
	b.assign(pod("p", 1))
	if p := pod("q", 0); b.m.Wants(p) || b.m.Has("q", toys) || !b.m.Has("p", toys) {
		t.Error("who has what")
	}
	b.refused(pod("p", 2), `pod "p" container "c" changed request for resource "example.com/toy" from 1 to 2`)
}

// TestPreference: the plugin chooses, as far as it can.
func TestPreference(t *testing.T) {
	b := newBench(t)
	p := b.plugin(fake.Config{Prefer: func(available, must []string, size int) []string {
		if size == 4 {
			return []string{"nonsense", "a"}
		}
		return []string{"c", "b", "c"}
	}}, fake.Healthy("a", "b", "c", "d", "e", "f")...)
	b.has(6, 6)
	b.assign(pod("p", 2))
	if got := b.given("p", "c"); got != "b c" {
		t.Errorf("p has %s", got)
	}
	q := pod("q", 4)
	q.Spec.InitContainers = []corev1.Container{asking("i", 1)}
	b.assign(q)
	if got := b.given("q", "i") + ", " + b.given("q", "c"); got != "a, a d e f" {
		t.Errorf("q has %s", got)
	}
	want := []string{"prefer 2 with [] of [a b c d e f]", "allocate [c b]", "prefer 1 with [] of [a d e f]", "allocate [a]", "prefer 4 with [a] of [a d e f]", "allocate [a d e f]"}
	if got := p.Calls(); !slices.Equal(got, want) {
		t.Errorf("calls %q\nwant %q", got, want)
	}
}

// TestEnding: devices of pods that are over are waited for, one after the other.
func TestEnding(t *testing.T) {
	b := newBench(t)
	b.plugin(fake.Config{}, fake.Healthy("a", "b")...)
	b.has(2, 2)
	b.assign(pod("p", 1))
	b.assign(pod("q", 1))
	b.refused(pod("r", 1), "requested number of devices unavailable for "+toys+". Requested: 1, Available: 0")
	b.ending["p"], b.ending["q"] = true, true
	done := make(chan error, 1)
	go func() { done <- b.m.Assign(t.Context(), pod("r", 2)) }()
	if err := b.m.Release("p"); err != nil {
		t.Fatal(err)
	}
	if b.given("r", "c") != "" {
		t.Error("given too early")
	}
	if err := b.m.Release("q"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || b.given("r", "c") != "a b" {
		t.Errorf("%v, r has %s", err, b.given("r", "c"))
	}
	b.ending["r"] = true
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- b.m.Assign(ctx, pod("s", 1)) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a pod that is deleted while it waits: %v", err)
	}
}

// TestAllocateFails: what the plugin complains of is told, and nothing is given; the next one may have it.
func TestAllocateFails(t *testing.T) {
	b := newBench(t)
	fail := true // the calls come one after the other
	b.plugin(fake.Config{Allocate: func(context.Context, []string) (*pluginapi.ContainerAllocateResponse, error) {
		if fail {
			return nil, errors.New("broken")
		}
		return &pluginapi.ContainerAllocateResponse{}, nil
	}}, fake.Healthy("a")...)
	b.has(1, 1)
	b.refused(pod("p", 1), "rpc error: code = Unknown desc = broken")
	fail = false
	b.assign(pod("q", 1))
	if got := b.counts(); !slices.Contains(got, "kubelet_device_plugin_alloc_duration_seconds 2") {
		t.Errorf("%v", got)
	}
}

// TestDiesWhileAsked: a plugin that dies before it answers has given nothing.
func TestDiesWhileAsked(t *testing.T) {
	b := newBench(t)
	asked := make(chan struct{})
	p, err := fake.Start(fake.Config{Resource: toys, Dir: b.own(), Allocate: func(ctx context.Context, _ []string) (*pluginapi.ContainerAllocateResponse, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}}, fake.Healthy("a")...)
	if err != nil {
		t.Fatal(err)
	}
	b.has(1, 1)
	done := make(chan error, 1)
	go func() { done <- b.m.Assign(t.Context(), pod("p", 1)) }()
	<-asked
	p.Stop()
	if err := <-done; err == nil || b.m.Has("p", toys) {
		t.Errorf("%v; p has %s", err, b.given("p", "c"))
	}
}

// TestOptions: what plugins answer is what containers get, also after a restart, and plugins that want to know are told of each start.
func TestOptions(t *testing.T) {
	b := newBench(t)
	p := b.plugin(fake.Config{PreStart: true, Allocate: func(_ context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
		return &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"TOYS": strings.Join(ids, ","), "BOTH": "toy"}, Annotations: map[string]string{"example.com/toys": "yes"},
			Mounts:  []*pluginapi.Mount{{ContainerPath: "/toys", HostPath: "/srv/toys", ReadOnly: true}, {ContainerPath: "/both", HostPath: "/srv/toy"}},
			Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/toy", HostPath: "/dev/zero", Permissions: "rw"}}, CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/toy=a"}},
		}, nil
	}}, fake.Healthy("a", "b")...)
	b.plugin(fake.Config{Resource: "example.com/another", Allocate: func(context.Context, []string) (*pluginapi.ContainerAllocateResponse, error) {
		return &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"BOTH": "another"}, Mounts: []*pluginapi.Mount{{ContainerPath: "/both", HostPath: "/srv/another"}}, CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/toy=a"}, {Name: "example.com/another=x"}},
		}, nil
	}}, fake.Healthy("x")...)
	b.has(2, 2)
	b.until("the other resource", func() bool { c, _ := b.m.Capacity(); return len(c) == 2 })
	pod := pod("p", 1)
	pod.Spec.Containers[0].Resources.Limits["example.com/another"] = *apiresource.NewQuantity(1, apiresource.DecimalSI)
	// Nobody assigned anything: as if the plugins came after the pod.
	check := func() {
		t.Helper()
		o, err := b.m.Options(t.Context(), pod, &pod.Spec.Containers[0])
		got := fmt.Sprint(o.Env, o.Annotations, o.Mounts, o.Devices, o.CDI, err)
		for _, want := range []string{
			"map[BOTH:another TOYS:a]", "map[example.com/toys:yes]", `container_path:"/toys" host_path:"/srv/toys" readonly:true`, `container_path:"/both" host_path:"/srv/another"`,
			`container_path:"/dev/toy" host_path:"/dev/zero" permissions:"rw"`, "[example.com/toy=a example.com/another=x]", "<nil>",
		} {
			if !strings.Contains(strings.ReplaceAll(got, "  ", " "), want) {
				t.Errorf("%s\nlacks %s", got, want)
			}
		}
		if strings.Contains(got, "/srv/toy\"") {
			t.Errorf("two mounts at one place: %s", got)
		}
	}
	check()
	check()
	b.restart()
	b.registered(p)
	b.has(2, 2)
	check()
	if got, want := p.Calls(), []string{"allocate [a]", "start [a]", "start [a]", "start [a]"}; !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	b.m.mu.Lock()
	served := b.m.resources[toys].serving()
	b.m.mu.Unlock()
	b.m.leave(served)
	if _, err := b.m.Options(t.Context(), pod, &pod.Spec.Containers[0]); err == nil || err.Error() != "device plugin PreStartContainer rpc failed with err: endpoint example.com/toy has been stopped" {
		t.Errorf("a start without the plugin: %v", err)
	}
}

// TestHealth: pods are told when what they have has another health.
func TestHealth(t *testing.T) {
	b := newBench(t)
	said := func(health string) []*pluginapi.Device {
		return []*pluginapi.Device{{ID: "a", Health: health, Topology: &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: 1}}}}, {ID: "b", Health: pluginapi.Healthy}}
	}
	p := b.plugin(fake.Config{}, said(pluginapi.Healthy)...)
	b.has(2, 2)
	b.assign(pod("p", 1))
	b.assign(pod("q", 1))
	shows := func(want corev1.ResourceHealthStatus) {
		t.Helper()
		for _, tt := range []struct{ pod, id string }{{"p", "a"}, {"q", "b"}} {
			health := want
			if tt.pod == "q" && want == corev1.ResourceHealthStatusUnhealthy {
				health = corev1.ResourceHealthStatusHealthy
			}
			got := fmt.Sprint(b.m.Health(types.UID(tt.pod)))
			if want := fmt.Sprintf("map[c:[{%s [{%s %s <nil>}]}]]", toys, tt.id, health); got != want {
				t.Errorf("%s shows %s, want %s", tt.pod, got, want)
			}
		}
	}
	told := func(want ...types.UID) {
		t.Helper()
		var got []types.UID
		for range want {
			select {
			case uid := <-b.changed:
				got = append(got, uid)
			case <-time.After(patience):
				t.Fatalf("told are %v, want %v", got, want)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("told are %v, want %v", got, want)
		}
	}
	shows(corev1.ResourceHealthStatusHealthy)
	p.Tell(said(pluginapi.Unhealthy)...)
	told("p")
	b.has(2, 1)
	shows(corev1.ResourceHealthStatusUnhealthy)
	if d := b.m.InUse("p", "c"); len(d) != 1 || !slices.Equal(d[0].Nodes, []int64{1}) {
		t.Errorf("p has %v", d)
	}
	b.m.mu.Lock()
	served := b.m.resources[toys].serving()
	b.m.mu.Unlock()
	b.m.leave(served)
	told("p", "q")
	shows(corev1.ResourceHealthStatusUnknown)
	if b.m.Health("r") != nil {
		t.Error("a pod without devices shows some")
	}
}

// TestFile: a file that can't be understood is refused.
func TestFile(t *testing.T) {
	for _, text := range []string{"{", `{"version": 2}`, `{"version": 1, "pods": {"p": {"c": {"example.com/toy": null}}}}`} {
		file := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{File: file, Clock: clock.RealClock{}}); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
