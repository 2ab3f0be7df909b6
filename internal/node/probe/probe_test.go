package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
	utilexec "k8s.io/utils/exec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience, in seconds, is for a machine that is busy with other things.
const patience = 60

type execFunc func(cmd []string) (string, int, error)

func (f execFunc) ExecSync(_ context.Context, _ string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	out, code, err := f(cmd)
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: errors.New("exit"), Code: code}
	}
	return []byte(out), nil, err
}

func TestCheckHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Header.Get("X-A") != "1" || r.Host != "named" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer s.Close()
	host, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	ask := func(path string) (outcome, string) {
		c := &corev1.Container{Name: "c"}
		p := &corev1.Probe{TimeoutSeconds: patience, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromString(port), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "1"}, {Name: "Host", Value: "named"}},
		}}}
		return check(t.Context(), nil, c, "", host, p)
	}
	if got, text := ask("/ok"); got != success {
		t.Errorf("%v %s", got, text)
	}
	if got, text := ask("/away"); got != warning || !strings.HasPrefix(text, "Probe terminated redirects, Response body: <a href=\"http://elsewhere.invalid/\">Found</a>.") {
		t.Errorf("a redirect to another host isn't followed, which is told: %v %s", got, text)
	}
	if got, text := ask("/no"); got != failure || text != "HTTP probe failed with statuscode: 500" {
		t.Errorf("%v %s", got, text)
	}
	s.Close()
	if got, text := ask("/ok"); got != failure || !strings.Contains(text, "connection refused") {
		t.Errorf("%v %s", got, text)
	}
}

func TestCheckTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	h := health.NewServer()
	grpc_health_v1.RegisterHealthServer(s, h)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	defer wg.Wait()
	defer s.Stop()
	port := l.Addr().(*net.TCPAddr).Port
	c := &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	tcp := &corev1.Probe{TimeoutSeconds: patience, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}}
	if got, text := check(t.Context(), nil, c, "", "127.0.0.1", tcp); got != success {
		t.Errorf("%v %s", got, text)
	}
	tcp.TCPSocket.Port = intstr.FromString("nope")
	if got, _ := check(t.Context(), nil, c, "", "127.0.0.1", tcp); got != unknown {
		t.Errorf("%v", got)
	}
	rpc := &corev1.Probe{TimeoutSeconds: patience, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}}
	if got, text := check(t.Context(), nil, c, "", "127.0.0.1", rpc); got != success {
		t.Errorf("%v %s", got, text)
	}
	h.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if got, text := check(t.Context(), nil, c, "", "127.0.0.1", rpc); got != failure || text != `service unhealthy (responded with "NOT_SERVING")` {
		t.Errorf("%v %s", got, text)
	}
}

func TestCheckExec(t *testing.T) {
	ask := func(f execFunc) (outcome, string) {
		return check(t.Context(), f, &corev1.Container{}, "id", "", &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}})
	}
	if got, _ := ask(func([]string) (string, int, error) { return "", 0, nil }); got != success {
		t.Errorf("%v", got)
	}
	if got, text := ask(func([]string) (string, int, error) { return "bad", 7, nil }); got != failure || text != "bad" {
		t.Errorf("%v %s", got, text)
	}
	if got, text := ask(func([]string) (string, int, error) { return "", 0, context.DeadlineExceeded }); got != failure || !strings.Contains(text, "timed out after 1s") {
		t.Errorf("%v %s", got, text)
	}
	if got, _ := ask(func([]string) (string, int, error) { return "", 0, errors.New("no such container") }); got != unknown {
		t.Errorf("%v", got)
	}
}

func TestManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		answers := map[string]int{"start": 1, "ready": 1, "live": 0}
		set := func(k string, v int) { mu.Lock(); answers[k] = v; mu.Unlock() }
		changes := 0
		m := New(Config{
			Executor: execFunc(func(cmd []string) (string, int, error) {
				mu.Lock()
				defer mu.Unlock()
				return "", answers[cmd[0]], nil
			}),
			Clock:   clock.RealClock{},
			Changed: func(types.UID) { mu.Lock(); changes++; mu.Unlock() },
			Event:   func(*corev1.Pod, string, string, string) {},
		})
		defer m.Close()
		p := func(cmd string, period, failures int32) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}, PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: 1}
		}
		c := &corev1.Container{Name: "c", StartupProbe: p("start", 1, 10), ReadinessProbe: p("ready", 1, 1), LivenessProbe: p("live", 1, 3)}
		m.Start(Target{Pod: &corev1.Pod{}, Container: c, ID: "id", StartedAt: time.Now()})
		step := func(d time.Duration, want Result) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got, ok := m.Result("id"); !ok || got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		}
		step(1500*time.Millisecond, Result{})
		set("start", 0)
		step(time.Second, Result{Started: true})
		set("ready", 0)
		step(time.Second, Result{Started: true, Ready: true})
		set("live", 1)
		step(2*time.Second, Result{Started: true, Ready: true})
		step(2*time.Second, Result{Started: true, Ready: true, Failed: Liveness})
		set("ready", 1)
		step(time.Second, Result{Started: true, Failed: Liveness})
		m.Stop("id")
		if _, ok := m.Result("id"); ok {
			t.Error("a stopped target has a result")
		}
		if changes != 4 {
			t.Errorf("%d changes", changes)
		}
	})
}
