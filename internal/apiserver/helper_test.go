package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anybody takes everyone for the user that the header X-User names, or for an administrator.
type anybody struct{}

func (anybody) AuthenticateRequest(r *http.Request) (user.Info, bool, error) {
	switch name := r.Header.Get("X-User"); name {
	case "":
		return &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}, true, nil
	case "nobody":
		return nil, false, nil
	default:
		return &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}, true, nil
	}
}

// admins allows everything to administrators and nothing to others.
type admins struct{}

func (admins) Authorize(_ context.Context, a request.Attributes) (request.Decision, string, error) {
	for _, g := range a.User.GetGroups() {
		if g == user.SystemPrivilegedGroup {
			return request.Allow, "", nil
		}
	}
	return request.NoOpinion, "", nil
}

// newServer makes a server over an empty memory engine.
func newServer(t testing.TB, change ...func(*Config)) *Server {
	t.Helper()
	cat, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	engine := memory.New()
	st, err := store.New(context.Background(), engine, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Register(st, cat); err != nil {
		t.Fatal(err)
	}
	if err := st.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{
		Store: st, Catalogue: cat, Authenticator: anybody{}, Authorizer: admins{},
		Version: apiversion.Info{Major: "1", Minor: "37", GitVersion: "v1.37.0"},
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// call is one request as a client makes it; header holds pairs.
func call(t testing.TB, h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = bytes.NewReader([]byte(body))
	}
	req := httptest.NewRequest(method, path, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "tester/1")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// want makes a request and returns its JSON; another status code than code ends the test.
func want(t testing.TB, h http.Handler, code int, method, path, body string, header ...string) map[string]any {
	t.Helper()
	w := call(t, h, method, path, body, header...)
	if w.Code != code {
		t.Fatalf("%s %s: %d, want %d: %.400s", method, path, w.Code, code, w.Body)
	}
	out := map[string]any{}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%s %s: %v in %.200s", method, path, err, w.Body)
		}
	}
	return out
}

// at finds a value in decoded JSON.
func at(v any, path ...any) any {
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[k]
		case int:
			l, ok := v.([]any)
			if !ok || k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}
