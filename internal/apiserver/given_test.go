package apiserver

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// give makes a request of somebody in this process, who gives an object and wants no answer.
func give(t *testing.T, h http.Handler, path string, obj runtime.Object, encode func(runtime.Object) ([]byte, error)) *httptest.ResponseRecorder {
	t.Helper()
	return hand(t, h, http.MethodPost, path, "application/json", request.Give(obj, encode))
}

// hand makes a request of somebody in this process, with a body of any kind.
func hand(t *testing.T, h http.Handler, method, path, contentType string, body io.ReadCloser) *httptest.ResponseRecorder {
	t.Helper()
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "room", Groups: []string{user.SystemPrivilegedGroup}})
	r := httptest.NewRequestWithContext(ctx, method, path, http.NoBody)
	r.Body, r.ContentLength = body, -1
	r.Header.Set("Content-Type", contentType)
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

func TestEditedByHand(t *testing.T) {
	s := newServer(t).Handler()
	want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces", `{"metadata":{"name":"n"}}`)
	const pod = "/api/v1/namespaces/n/pods/p"
	want(t, s, http.StatusCreated, "POST", "/api/v1/namespaces/n/pods", `{"metadata":{"name":"p","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	never := func() ([]byte, error) {
		t.Error("encoded")
		return nil, errors.New("no")
	}
	nominate := func(node string, uid string) func(runtime.Object) (runtime.Object, error) {
		return func(obj runtime.Object) (runtime.Object, error) {
			old, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, errors.New("no pod")
			}
			p := *old
			if uid != "" {
				p.UID = types.UID(uid)
			}
			p.Status.NominatedNodeName = node
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "R", LastTransitionTime: metav1.Unix(1, 0)}}
			return &p, nil
		}
	}
	const strategic = "application/strategic-merge-patch+json"
	before := want(t, s, http.StatusOK, "GET", pod, "")
	if w := hand(t, s, http.MethodPatch, pod+"/status", strategic, request.GiveEdit(nominate("node", ""), never)); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	after := want(t, s, http.StatusOK, "GET", pod, "")
	if at(after, "status", "nominatedNodeName") != "node" || at(after, "spec", "restartPolicy") != "Always" || at(after, "metadata", "labels", "a") != "b" ||
		at(after, "metadata", "resourceVersion") == at(before, "metadata", "resourceVersion") || len(at(after, "metadata", "managedFields").([]any)) != 2 {
		t.Errorf("%v", after)
	}
	// What isn't allowed is refused as a patch is, and so is another pod's name.
	if w := hand(t, s, http.MethodPatch, pod+"/status", strategic, request.GiveEdit(nominate("Not A Node", ""), never)); w.Code != http.StatusUnprocessableEntity || w.Body.Len() == 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	other := hand(t, s, http.MethodPatch, pod+"/status", strategic, request.GiveEdit(nominate("node2", "other"), never))
	sent := want(t, s, other.Code, "PATCH", pod+"/status", `{"metadata":{"uid":"other"},"status":{"nominatedNodeName":"node2"}}`, "Content-Type", strategic)
	if other.Code < 400 || at(sent, "status") != "Failure" {
		t.Errorf("%d %s", other.Code, other.Body)
	}
	if w := hand(t, s, http.MethodPatch, "/api/v1/namespaces/n/pods/q/status", strategic, request.GiveEdit(nominate("node", ""), never)); w.Code != http.StatusNotFound {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// Who doesn't understand an edit reads the patch.
	encode := func() ([]byte, error) { return []byte(`{"status":{"nominatedNodeName":"merged"}}`), nil }
	if w := hand(t, s, http.MethodPatch, pod+"/status", "application/merge-patch+json", request.GiveEdit(nominate("node", ""), encode)); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if got := want(t, s, http.StatusOK, "GET", pod, ""); at(got, "status", "nominatedNodeName") != "merged" {
		t.Errorf("%v", got)
	}

	// Options of a deletion are taken as they are; a pod that has a node takes its time.
	want(t, s, http.StatusCreated, "POST", pod+"/binding", `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"m"}}`)
	nobody := func(runtime.Object) ([]byte, error) { return never() }
	remove := func(uid string, seconds int64) *httptest.ResponseRecorder {
		o := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, Preconditions: metav1.NewUIDPreconditions(uid), GracePeriodSeconds: &seconds}
		return hand(t, s, http.MethodDelete, pod, "application/json", request.Give(o, nobody))
	}
	if w := remove("other", 0); w.Code != http.StatusConflict {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	uid, _ := at(after, "metadata", "uid").(string)
	if w := remove(uid, -1); w.Code != http.StatusOK || w.Body.Len() > 0 { // one second
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := remove(uid, 0); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	want(t, s, http.StatusNotFound, "GET", pod, "")
}
