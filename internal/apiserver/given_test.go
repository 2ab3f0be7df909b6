package apiserver

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// give makes a request of somebody in this process, who gives an object and wants no answer.
func give(t *testing.T, h http.Handler, path string, obj runtime.Object, encode func(runtime.Object) ([]byte, error)) *httptest.ResponseRecorder {
	t.Helper()
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "room", Groups: []string{user.SystemPrivilegedGroup}})
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, http.NoBody)
	r.Body, r.ContentLength = request.Give(obj, encode), -1
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Prefer", request.NoAnswer)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestGiven(t *testing.T) {
	s := newServer(t).Handler()
	want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces", `{"metadata":{"name":"n"}}`)
	want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces/n/pods", `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	never := func(runtime.Object) ([]byte, error) {
		t.Error("encoded")
		return nil, errors.New("no")
	}
	const events = "/api/v1/namespaces/n/events"
	event := func(name string) *corev1.Event {
		return &corev1.Event{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "n", Name: "p"}, Reason: "R", Message: "m", Type: "Normal",
		}
	}
	if w := give(t, s, events, event("e"), never); w.Code != http.StatusCreated || w.Body.Len() > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if e := want(t, s, http.StatusOK, "GET", events+"/e", ""); at(e, "message") != "m" || at(e, "metadata", "uid") == nil || at(e, "metadata", "namespace") != "n" {
		t.Errorf("%v", e)
	}
	bind := &corev1.Binding{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Name: "node"}}
	if w := give(t, s, "/api/v1/namespaces/n/pods/p/binding", bind, never); w.Code != http.StatusCreated || w.Body.Len() > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if p := want(t, s, http.StatusOK, "GET", "/api/v1/namespaces/n/pods/p", ""); at(p, "spec", "nodeName") != "node" {
		t.Errorf("%v", p)
	}

	// What went wrong is told.
	if w := give(t, s, events, event("e"), never); w.Code != http.StatusConflict || w.Body.Len() == 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// What isn't the kind's own type is read as anybody's.
	encoded := 0
	other := func(obj runtime.Object) ([]byte, error) {
		encoded++
		return []byte(`{"metadata":{"name":"f"},"involvedObject":{"kind":"Pod","namespace":"n","name":"p"},"reason":"R","message":"m","type":"Normal"}`), nil
	}
	if w := give(t, s, events, bind, other); w.Code != http.StatusCreated || encoded != 1 {
		t.Errorf("%d %s, encoded %d times", w.Code, w.Body, encoded)
	}

	// Nobody from outside goes without an answer.
	if got := want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces/n/configmaps", `{"metadata":{"name":"c"}}`, "Prefer", request.NoAnswer); at(got, "metadata", "name") != "c" {
		t.Errorf("%v", got)
	}
}
