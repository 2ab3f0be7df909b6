package proxy

import (
	"encoding/json"
	"errors"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHealthz(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{}
		expect := func(what string, healthz, livez int) {
			t.Helper()
			for path, want := range map[string]int{"/healthz": healthz, "/livez": livez, "/": 404} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				if w.Code != want {
					t.Errorf("%s: %s is %d, want %d: %s", what, path, w.Code, want, w.Body)
				}
				var body struct {
					LastUpdated, CurrentTime *time.Time
					NodeEligible             *bool
				}
				if path == "/" {
					continue
				}
				if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.LastUpdated == nil || body.CurrentTime == nil || (body.NodeEligible != nil) != (path == "/healthz") {
					t.Errorf("%s: %s says %s (%v)", what, path, w.Body, err)
				}
			}
		}
		expect("nothing programmed yet", 503, 503)
		h.changed()
		h.end(h.begin(), nil)
		expect("programmed", 200, 200)
		time.Sleep(time.Hour)
		expect("nothing to do for long", 200, 200)
		h.changed()
		since := h.begin()
		h.end(since, errors.New("no"))
		time.Sleep(staleAfter - time.Second)
		h.end(h.begin(), errors.New("still no"))
		expect("not for long", 200, 200)
		time.Sleep(2 * time.Second)
		expect("what should be programmed is old", 503, 503)
		h.end(h.begin(), nil)
		expect("programmed at last", 200, 200)
		h.look(&corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: leavingTaint}}}})
		expect("the autoscaler takes the node away", 503, 200)
		h.look(&corev1.Node{})
		expect("it doesn't", 200, 200)
		now := metav1.Now()
		h.look(&corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}})
		expect("the node is being deleted", 503, 200)
		h.look(nil)
		expect("the node is gone", 200, 200)
	})
}

// TestHealthCheckOfAService: a load balancer is sent elsewhere while the proxy is ill.
func TestHealthCheckOfAService(t *testing.T) {
	h := &health{}
	s := &healthServer{proxy: h}
	s.now.Store(&healthCheck{local: 1})
	ask := func() int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Code
	}
	if got := ask(); got != 503 {
		t.Error(got)
	}
	h.end(h.begin(), nil)
	if got := ask(); got != 200 {
		t.Error(got)
	}
	s.now.Store(&healthCheck{})
	if got := ask(); got != 503 {
		t.Error(got)
	}
}
