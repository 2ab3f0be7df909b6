package dra

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthpbv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/celox/celox/test/dradriver"
)

// shown is what a pod's status says of the devices of its first container.
func (b *bench) shown(pod *corev1.Pod) string {
	list, ok := b.m.Health(pod)[pod.Spec.Containers[0].Name]
	if !ok {
		return "not known"
	}
	var out []string
	for _, r := range list {
		for _, h := range r.Resources {
			s := fmt.Sprintf("%s %s %s", r.Name, h.ResourceID, h.Health)
			if h.Message != nil {
				s += ": " + *h.Message
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

// comes waits until a pod is told to have changed, and is shown so.
func (b *bench) comes(pod *corev1.Pod, want string) { b.Helper(); b.comesBy(pod, want, func() {}) }

// ages is comes while time passes.
func (b *bench) ages(pod *corev1.Pod, want string) {
	b.Helper()
	b.comesBy(pod, want, func() { b.clock.Step(time.Second) })
}

func (b *bench) comesBy(pod *corev1.Pod, want string, each func()) {
	b.Helper()
	told := false
	b.until("pod "+pod.Name+" shows "+want, func() bool {
		each()
		for {
			select {
			case uid := <-b.changed:
				told = told || uid == pod.UID && b.shown(pod) == want
			default:
				return told
			}
		}
	})
}

// TestHealth: what a driver says of its devices is shown for the pods that have them, and unknown when it stops saying so.
func TestHealth(t *testing.T) {
	for _, service := range []string{healthpb.DRAResourceHealthService, healthpbv1alpha1.DRAResourceHealthService} {
		t.Run(service, func(t *testing.T) {
			b := newBench(t, allocated("c", "p", "q"))
			p, q := podWith("p", "c", corev1.ResourceClaim{Name: "d"}), podWith("q", "c", corev1.ResourceClaim{Name: "d", Request: "r"})
			change := func(c *dradriver.Config) { c.Versions = []string{drapb.DRAPluginService, service} }
			d := b.driver(change)
			b.registered(d)
			if got := b.shown(p); got != "not known" {
				t.Errorf("before the claim is prepared: %s", got)
			}
			for _, pod := range []*corev1.Pod{p, q} {
				if err := b.m.Prepare(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
			}
			const id = "toys.example.com/toy=claim-c "
			if got, want := b.shown(p), "claim:d "+id+"Unknown"; got != want {
				t.Errorf("before the driver said anything: %s, want %s", got, want)
			}
			toy := func(health healthpb.HealthStatus, seconds int64, message string) {
				d.Tell(dradriver.Device("n", "toy-9", healthpb.HealthStatus_UNHEALTHY, 0, "nobody's"), dradriver.Device("n", "toy-0", health, seconds, message))
			}
			toy(healthpb.HealthStatus_HEALTHY, 0, "")
			b.comes(p, "claim:d "+id+"Healthy")
			toy(healthpb.HealthStatus_UNHEALTHY, -1, "an arm is off")
			b.comes(q, "claim:d/r "+id+"Unhealthy: an arm is off")
			b.clock.Step(29 * time.Second)
			if got, want := b.shown(p), "claim:d "+id+"Unhealthy: an arm is off"; got != want {
				t.Errorf("a while later: %s", got)
			}
			// It counts for 30 s unless the driver says otherwise.
			b.ages(p, "claim:d "+id+"Unknown")
			toy(healthpb.HealthStatus_HEALTHY, 3600, "")
			b.comes(p, "claim:d "+id+"Healthy")
			b.clock.Step(3599 * time.Second)
			if got, want := b.shown(p), "claim:d "+id+"Healthy"; got != want {
				t.Errorf("before the hour is over: %s", got)
			}
			b.ages(p, "claim:d "+id+"Unknown")
			toy(healthpb.HealthStatus_HEALTHY, 3600, "")
			b.comes(p, "claim:d "+id+"Healthy")
			// A stream that breaks.
			d.Hush(grpcstatus.Error(codes.Unavailable, "out for lunch"))
			b.comes(p, "claim:d "+id+"Unknown")
			heard := d.Heard()
			b.until("the node tries again", func() bool { b.clock.Step(time.Second); return d.Heard() > heard })
			d.Hush(nil)
			b.until("the driver is heard again", func() bool { b.clock.Step(time.Second); return b.shown(p) == "claim:d "+id+"Healthy" })
			// A driver that goes.
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
			b.comes(p, "claim:d "+id+"Unknown")
			d = b.driver(change)
			b.registered(d)
			toy(healthpb.HealthStatus_HEALTHY, 0, "")
			b.comes(p, "claim:d "+id+"Healthy")
			// A node that starts again asks anew.
			b.restart()
			b.registered(d)
			b.until("heard after a restart", func() bool { return b.shown(p) == "claim:d "+id+"Healthy" })
			if err := b.m.Unprepare(t.Context(), "p"); err != nil {
				t.Fatal(err)
			}
			if got := b.shown(p); got != "not known" {
				t.Errorf("after the claim was given back: %s", got)
			}
		})
	}
}

// TestHealthIsNotTold: a driver that can't tell after all isn't asked again, and one that doesn't say it can is never asked.
func TestHealthIsNotTold(t *testing.T) {
	for _, tt := range []struct {
		versions []string
		asked    int
	}{{[]string{drapb.DRAPluginService}, 0}, {[]string{drapb.DRAPluginService, healthpb.DRAResourceHealthService, healthpbv1alpha1.DRAResourceHealthService}, 1}} {
		b := newBench(t, allocated("c", "p"))
		p := podWith("p", "c", corev1.ResourceClaim{Name: "d"})
		d := b.driver(func(c *dradriver.Config) { c.Versions = tt.versions })
		d.Hush(grpcstatus.Error(codes.Unimplemented, "no idea"))
		b.registered(d)
		if err := b.m.Prepare(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if tt.asked > 0 {
			b.until("asked", func() bool { return d.Heard() > 0 })
		}
		b.m.drivers.wg.Wait() // nobody listens any more
		if n := d.Heard(); n != tt.asked {
			t.Errorf("%v: asked %d times", tt.versions, n)
		}
		if got, want := b.shown(p), "claim:d toys.example.com/toy=claim-c Unknown"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestHealthNames: which devices are shown for what a container asks for, and what they are called.
func TestHealthNames(t *testing.T) {
	b := newBench(t)
	b.m.mu.Lock()
	b.m.claims["u"] = &claim{UID: "u", Namespace: "ns", Name: "c", Pods: nil, Prepared: true, Drivers: map[string][]device{
		"b.example.com": {{Requests: []string{"two/big"}, Pool: "n", Name: "x"}, {Pool: "n", Name: "y", CDI: []string{"b.example.com/toy=y", "b.example.com/all=1"}}},
		"a.example.com": {{Requests: []string{"one"}, Pool: "n", Name: "x", CDI: []string{"a.example.com/toy=1"}}, {Requests: []string{"one"}, Pool: "n", Name: "z", CDI: []string{"a.example.com/toy=1"}}},
	}}
	b.m.claims["u"].Pods = append(b.m.claims["u"].Pods, "p")
	b.m.mu.Unlock()
	none := podWith("p", "c", corev1.ResourceClaim{Name: "d"}, corev1.ResourceClaim{Name: "without"})
	none.Spec.ResourceClaims = append(none.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "without", ResourceClaimTemplateName: new("t")})
	none.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "without"}}
	for name, tt := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"all": {podWith("p", "c", corev1.ResourceClaim{Name: "d"}),
			"claim:d a.example.com/toy=1 Unknown, claim:d b.example.com/n/x Unknown, claim:d b.example.com/toy=y Unknown"},
		"a request": {podWith("p", "c", corev1.ResourceClaim{Name: "d", Request: "one"}), "claim:d/one a.example.com/toy=1 Unknown, claim:d/one b.example.com/toy=y Unknown"},
		"with alternatives": {podWith("p", "c", corev1.ResourceClaim{Name: "d", Request: "two"}),
			"claim:d/two b.example.com/n/x Unknown, claim:d/two b.example.com/toy=y Unknown"},
		"a claim that isn't needed": {none, "claim:d a.example.com/toy=1 Unknown, claim:d b.example.com/n/x Unknown, claim:d b.example.com/toy=y Unknown"},
		"another pod's":             {podWith("q", "c", corev1.ResourceClaim{Name: "d"}), "not known"},
		"one that isn't prepared":   {podWith("p", "c", corev1.ResourceClaim{Name: "d"}, corev1.ResourceClaim{Name: "e"}), "not known"},
		"no claim":                  {&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}, "not known"},
	} {
		if got := b.shown(tt.pod); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// wire is what a driver says, in the messages that the node reads.
func wire(list ...*healthpb.DeviceHealth) []*healthpbv1alpha1.DeviceHealth {
	return healthpb.NodeWatchResourcesResponseToV1Alpha1(&healthpb.NodeWatchResourcesResponse{Devices: list}).GetDevices()
}

// TestReports: how many devices are remembered, how long, and of whom when there are two.
func TestReports(t *testing.T) {
	ds := &drivers{}
	ds.init()
	older, newer := &driver{reports: map[deviceID]report{}}, &driver{reports: map[deviceID]report{}}
	ds.byName["d"] = []*driver{older, newer}
	now := time.Now()
	id := deviceID{"n", "x"}
	x := func(h healthpb.HealthStatus, seconds int64) *healthpb.DeviceHealth {
		return dradriver.Device("n", "x", h, seconds, "")
	}
	for _, tt := range []struct {
		what    string
		by      *driver
		said    *healthpb.DeviceHealth
		after   time.Duration
		changed bool
		want    corev1.ResourceHealthStatus
	}{
		{"the first", older, x(healthpb.HealthStatus_HEALTHY, 10), 0, true, "Healthy"},
		{"the same", older, x(healthpb.HealthStatus_HEALTHY, 10), 9 * time.Second, false, "Healthy"},
		{"a newer one knows better", newer, x(healthpb.HealthStatus_UNHEALTHY, 5), time.Second, true, "Unhealthy"},
		{"the older one isn't asked", older, x(healthpb.HealthStatus_HEALTHY, 100), time.Second, true, "Unhealthy"},
		{"but when the newer one is silent", older, x(healthpb.HealthStatus_HEALTHY, 100), 4 * time.Second, false, "Healthy"},
		{"a value of later versions", newer, x(7, 1<<62), 0, true, "Unknown"},
	} {
		now = now.Add(tt.after)
		changed, left := ds.note(tt.by, wire(tt.said), now)
		if changed[id] != tt.changed || left != 0 {
			t.Errorf("%s: changed %v, left %d", tt.what, changed, left)
		}
		if got := ds.said("d", id, now).health; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
	if gone, next := ds.expire(now); len(gone) != 0 || next != 100*time.Second {
		t.Errorf("expired %v, next in %v", gone, next)
	}
	now = now.Add(100 * time.Second)
	if gone, next := ds.expire(now); len(gone["d"]) != 1 || !gone["d"][id] || next <= 100*time.Second {
		t.Errorf("expired %v, next in %v", gone, next)
	}
	var many []*healthpb.DeviceHealth
	for i := range maxReports + 1 {
		many = append(many, dradriver.Device("n", fmt.Sprint(i), healthpb.HealthStatus_HEALTHY, 0, ""))
	}
	if changed, left := ds.note(older, wire(many...), now); len(changed) != maxReports || left != 1 {
		t.Errorf("%d devices are remembered, %d not", len(changed), left)
	}
	if n := len(ds.forget(older)); n != maxReports || len(older.reports) != 0 {
		t.Errorf("%d forgotten, %d not", n, len(older.reports))
	}
}

// TestHealthService: the names of the services are those of the API, and the newer one is preferred.
func TestHealthService(t *testing.T) {
	v1, v1alpha1 := healthpb.DRAResourceHealthService, healthpbv1alpha1.DRAResourceHealthService
	for _, tt := range []struct {
		has  []string
		want string
	}{{[]string{v1alpha1, v1}, v1}, {[]string{v1alpha1}, v1alpha1}, {[]string{v1}, v1}, {[]string{drapb.DRAPluginService}, ""}} {
		if got := healthService(tt.has); got != tt.want {
			t.Errorf("%v: %q", tt.has, got)
		}
	}
	if v1+"/"+healthpb.DRAResourceHealth_ServiceDesc.Streams[0].StreamName != strings.TrimPrefix(healthpb.DRAResourceHealth_NodeWatchResources_FullMethodName, "/") {
		t.Error(healthpb.DRAResourceHealth_NodeWatchResources_FullMethodName)
	}
}

func TestShortened(t *testing.T) {
	long := strings.Repeat("é", 600)
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		{strings.Repeat("x", 1025), strings.Repeat("x", 1021) + "..."},
		{long, strings.Repeat("é", 510) + "..."},
	} {
		if got := shortened(tt.in); got != tt.want {
			t.Errorf("%d bytes became %d", len(tt.in), len(got))
		}
	}
}
