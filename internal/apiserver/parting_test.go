package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// deleters allows only to delete to who isn't an administrator.
type deleters struct{ admins }

func (d deleters) Authorize(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.Verb == "delete" && a.Subresource == "" {
		return request.Allow, "", nil
	}
	return d.admins.Authorize(ctx, a)
}

// TestParting: a deletion that changes the status too is one write; who watches sees why a pod goes with its going.
func TestParting(t *testing.T) {
	server := newServer(t, func(c *Config) { c.Authorizer = deleters{} })
	s := server.Handler()
	want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces", `{"metadata":{"name":"n"}}`)
	const pods = "/api/v1/namespaces/n/pods"
	create := func(body string) map[string]any {
		return want(t, s, http.StatusCreated, "POST", pods, `{"metadata":`+body+`,"spec":{"nodeName":"m","containers":[{"name":"c","image":"i"}]}}`)
	}
	created := create(`{"name":"p"}`)
	create(`{"name":"q","finalizers":["example.com/f"]}`)
	reason := corev1.PodReasonPreemptionByScheduler
	told := func(obj runtime.Object) (runtime.Object, error) {
		p := *obj.(*corev1.Pod)
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.Unix(1, 0)}}
		return &p, nil
	}
	as := &user.DefaultInfo{Name: "room", Groups: []string{user.SystemPrivilegedGroup}}
	remove := func(name string, seconds int64) *httptest.ResponseRecorder {
		never := func(runtime.Object) ([]byte, error) { return nil, errors.New("encoded") }
		o := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, GracePeriodSeconds: &seconds}
		ctx := request.WithParting(request.WithUser(t.Context(), as), told)
		r := httptest.NewRequestWithContext(ctx, http.MethodDelete, pods+"/"+name, http.NoBody)
		r.Body, r.ContentLength = request.Give(o, never), -1
		r.Header.Set("Prefer", request.NoAnswer)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	col, ok := server.cfg.Store.Collection(corev1.Resource("pods"))
	if !ok {
		t.Fatal("no pods")
	}
	watch, err := col.Watch(t.Context(), store.WatchOptions{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	var seen []store.Event
	next := func(typ store.EventType, name, reason string) *corev1.Pod {
		t.Helper()
		for len(seen) == 0 {
			var err error
			if seen, err = watch.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		e := seen[0]
		seen = seen[1:]
		p := e.Item.Object.(*corev1.Pod)
		got := ""
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				got = c.Reason
			}
		}
		if e.Type != typ || p.Name != name || got != reason || p.ResourceVersion == at(created, "metadata", "resourceVersion") {
			t.Errorf("event %d of %s %q, version %s; want %d of %s %q", e.Type, p.Name, got, p.ResourceVersion, typ, name, reason)
		}
		return p
	}

	// One who takes his time: status and time of deletion in one step.
	if w := remove("p", 30); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	p := next(store.Modified, "p", reason)
	if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 || len(p.ManagedFields) != 2 || p.ManagedFields[1].Subresource != "status" {
		t.Errorf("%+v", p.ObjectMeta)
	}
	// Of one who is going already only the status changes; without news nothing does.
	reason = "Again"
	if w := remove("p", 30); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if q := next(store.Modified, "p", reason); !q.DeletionTimestamp.Equal(p.DeletionTimestamp) {
		t.Errorf("%+v", q.ObjectMeta)
	}
	if w := remove("p", 30); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	// One who goes at once shows it with his going.
	reason = "Now"
	if w := remove("p", 0); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	next(store.Deleted, "p", reason)
	want(t, s, http.StatusNotFound, "GET", pods+"/p", "")
	// One whom something holds.
	if w := remove("q", 0); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if q := next(store.Modified, "q", reason); q.DeletionTimestamp == nil {
		t.Errorf("%+v", q.ObjectMeta)
	}

	// What a status may not be is refused, and then nothing is deleted; so is who may delete but not change the status.
	create(`{"name":"r"}`)
	next(store.Added, "r", "")
	reason = ""
	before := told
	told = func(obj runtime.Object) (runtime.Object, error) {
		p := *obj.(*corev1.Pod)
		p.Status.NominatedNodeName = "Not A Node"
		return &p, nil
	}
	if w := remove("r", 30); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	told, as = before, &user.DefaultInfo{Name: "janitor"}
	if w := remove("r", 0); w.Code != http.StatusForbidden {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := want(t, s, http.StatusOK, "GET", pods+"/r", ""); at(got, "metadata", "deletionTimestamp") != nil {
		t.Errorf("%v", got)
	}
	want(t, s, http.StatusOK, "DELETE", pods+"/r?gracePeriodSeconds=0", "", "X-User", "janitor")
	next(store.Deleted, "r", "")
}
