package hook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
)

type exec struct{ err error }

func (e exec) ExecSync(context.Context, string, []string, time.Duration) ([]byte, []byte, error) {
	return []byte("out"), nil, e.err
}

func TestExec(t *testing.T) {
	c := &corev1.Container{Name: "c"}
	h := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}
	if err := (&Runner{Executor: exec{}, Clock: clock.RealClock{}}).Run(t.Context(), c, "id", "", h); err != nil {
		t.Error(err)
	}
	err := (&Runner{Executor: exec{errors.New("bad")}, Clock: clock.RealClock{}}).Run(t.Context(), c, "id", "", h)
	if err == nil || !strings.Contains(err.Error(), `message: "out"`) {
		t.Errorf("error %v", err)
	}
	if err := (&Runner{}).Run(t.Context(), c, "id", "", &corev1.LifecycleHandler{}); err == nil {
		t.Error("an empty handler was accepted")
	}
}

func TestHTTP(t *testing.T) {
	asked := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		w.WriteHeader(http.StatusInternalServerError) // only whether there is an answer counts
	}))
	defer s.Close()
	host, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	h := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "hook", Port: intstr.Parse(port)}}
	if err := (&Runner{Clock: clock.RealClock{}}).Run(t.Context(), &corev1.Container{}, "id", host, h); err != nil || asked != "/hook" {
		t.Errorf("asked for %q, %v", asked, err)
	}
}

func TestHTTPSFallsBack(t *testing.T) {
	var asked, authorization string
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked, authorization = r.URL.Path, r.Header.Get("Authorization")
	}))
	defer s.Close()
	host, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	var told []string
	r := &Runner{Clock: clock.RealClock{}, FellBack: func(host string) { told = append(told, host) }}
	h := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{
		Path: "hook", Port: intstr.Parse(port), Scheme: corev1.URISchemeHTTPS, HTTPHeaders: []corev1.HTTPHeader{{Name: "Authorization", Value: "secret"}},
	}}
	if err := r.Run(t.Context(), &corev1.Container{}, "id", host, h); err != nil || asked != "/hook" || authorization != "" {
		t.Errorf("asked for %q with authorization %q, %v", asked, authorization, err)
	}
	if want := s.Listener.Addr().String(); len(told) != 1 || told[0] != want {
		t.Errorf("told %q, want %s", told, want)
	}
	s.Close()
	if err := r.Run(t.Context(), &corev1.Container{}, "id", host, h); err == nil || len(told) != 1 {
		t.Errorf("nobody listens: %v, told %q", err, told)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Runner{Clock: clock.RealClock{}}
		h := &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}}
		began := time.Now()
		if err := r.Run(t.Context(), &corev1.Container{}, "id", "", h); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Run(ctx, &corev1.Container{}, "id", "", h); err == nil {
			t.Error("the hook outlived its time")
		}
	})
}
