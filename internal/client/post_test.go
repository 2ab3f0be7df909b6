package client

import (
	"io"
	"net/http"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/celox/celox/internal/apiserver/request"
)

func TestPost(t *testing.T) {
	const path = "/api/v1/namespaces/n/pods/p/binding"
	var answer func(w http.ResponseWriter)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := request.UserFrom(r.Context()); !ok || u.GetName() != "somebody" || r.Method != http.MethodPost || r.URL.Path != path || r.RequestURI != path || r.UserAgent() != "agent" {
			t.Errorf("%v %s %s by %q", u, r.Method, r.URL, r.UserAgent())
		}
		if r.Header.Get("Accept") != runtime.ContentTypeProtobuf || r.Header.Get("Prefer") != request.NoAnswer || r.Header.Get("Content-Type") != runtime.ContentTypeProtobuf {
			t.Errorf("%v", r.Header)
		}
		body, err := io.ReadAll(r.Body)
		if given, ok := r.Body.(*request.Given); err != nil || ok && given.Object() != nil || !ok && r.ContentLength != int64(len(body)) {
			t.Errorf("%d bytes of a %T: %v", len(body), r.Body, err)
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		if b, ok := obj.(*v1.Binding); err != nil || !ok || b.Target.Name != "node" || b.Name != "p" {
			t.Errorf("%v %v", obj, err)
		}
		answer(w)
	})
	binding := &v1.Binding{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: v1.ObjectReference{Name: "node"}}
	p := NewPoster(h, &user.DefaultInfo{Name: "somebody"}, "agent")
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   func(error) bool
	}{
		"created":     {func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated) }, func(err error) bool { return err == nil }},
		"no words":    {func(http.ResponseWriter) {}, func(err error) bool { return err == nil }},
		"a status":    {status(http.StatusConflict, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","code":409}`), apierrors.IsConflict},
		"other words": {status(http.StatusNotFound, "nothing here"), apierrors.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			answer = tt.answer
			if err := p.Send(t.Context(), path, binding); !tt.want(err) {
				t.Errorf("sent: %v", err)
			}
			if err := p.Post(t.Context(), path, binding.DeepCopy()); !tt.want(err) {
				t.Errorf("%v", err)
			}
		})
	}
}

func status(code int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body) // to memory
	}
}

func TestPosterChanges(t *testing.T) {
	const path = "/api/v1/namespaces/n/pods/p"
	code, parts := http.StatusOK, false
	p := NewPoster(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := request.UserFrom(r.Context()); !ok || u.GetName() != "somebody" || r.RequestURI != r.URL.Path || r.Header.Get("Prefer") != request.NoAnswer {
			t.Errorf("%v %s %v", u, r.URL, r.Header)
		}
		switch r.Method {
		case http.MethodPatch:
			edit, ok := r.Body.(*request.Edit)
			if !ok || r.URL.Path != path+"/status" || r.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
				t.Errorf("a %T for %s, %v", r.Body, r.URL.Path, r.Header)
				return
			}
			if obj, err := edit.Apply(&v1.Pod{}); err != nil || obj.(*v1.Pod).Status.NominatedNodeName != "node" {
				t.Errorf("%v %v", obj, err)
			}
			if data, err := io.ReadAll(edit); err != nil || string(data) != "{}" {
				t.Errorf("%q %v", data, err)
			}
		case http.MethodDelete:
			data, err := io.ReadAll(r.Body)
			if err != nil || r.URL.Path != path {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
			if o, ok := obj.(*metav1.DeleteOptions); err != nil || !ok || *o.Preconditions.UID != "uid" {
				t.Errorf("%v %v", obj, err)
			}
			if parting := request.PartingFrom(r.Context()); (parting != nil) != parts {
				t.Errorf("changes the status: %t, want %t", parting != nil, parts)
			}
		default:
			t.Error(r.Method)
		}
		if code >= http.StatusBadRequest {
			status(code, "no")(w)
		}
	}), &user.DefaultInfo{Name: "somebody"}, "agent")
	edit := func(obj runtime.Object) (runtime.Object, error) {
		next := *obj.(*v1.Pod)
		next.Status.NominatedNodeName = "node"
		return &next, nil
	}
	for round := range 2 {
		changed := p.Patch(t.Context(), path+"/status", edit, func() ([]byte, error) { return []byte("{}"), nil })
		parting := edit
		if parts = round == 0; !parts {
			parting = nil
		}
		deleted := p.Delete(t.Context(), path, &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("uid")}, parting)
		if bad := code >= http.StatusBadRequest; bad != apierrors.IsNotFound(changed) || bad != apierrors.IsNotFound(deleted) || !bad && (changed != nil || deleted != nil) {
			t.Errorf("%d: %v, %v", code, changed, deleted)
		}
		code = http.StatusNotFound
	}
}
