package images

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestPull(t *testing.T) {
	host := registryAt(t)
	push(t, host+"/team/app:v1", sample(t))
	s := openStore(t, t.TempDir(), Registries{})
	var seen []Stage
	i, err := s.Pull(t.Context(), host+"/team/app:v1", nil, func(p Progress) { seen = append(seen, p.Stage) })
	if err != nil {
		t.Fatal(err)
	}
	d, err := sample(t).Digest()
	if err != nil {
		t.Fatal(err)
	}
	same(t, i.RepoTags, []string{host + "/team/app:v1"})
	same(t, i.RepoDigests, []string{host + "/team/app@" + d.String()})
	for _, st := range []Stage{StageResolving, StagePulling, StageDone} {
		if !slices.Contains(seen, st) {
			t.Errorf("no progress %q in %q", st, seen)
		}
	}
	same(t, mounted(t, s, i.ID, "c"), []string{"etc/ 755 0:0", `etc/b 644 0:0 "two"`, `etc/c 644 0:0 "three"`})

	// Again, by digest, and another tag of the same.
	push(t, host+"/team/app:v2", sample(t))
	for _, ref := range []string{"/team/app:v1", "/team/app@" + d.String(), "/team/app:v2"} {
		if again, err := s.Pull(t.Context(), host+ref, nil, nil); err != nil || again.ID != i.ID {
			t.Errorf("%s: %v %v", ref, again, err)
		}
	}
	got, _ := s.Get(i.ID)
	same(t, got.RepoTags, []string{host + "/team/app:v1", host + "/team/app:v2"})

	// The tag moves.
	push(t, host+"/team/app:v1", imageOf(t, v1.Config{}, layerOf(t, file("new", ""))))
	moved, err := s.Pull(t.Context(), host+"/team/app:v1", nil, nil)
	if err != nil || moved.ID == i.ID {
		t.Errorf("%v %v", moved, err)
	}
	got, _ = s.Get(i.ID)
	same(t, got.RepoTags, []string{host + "/team/app:v2"})
}

func TestPullErrors(t *testing.T) {
	host := registryAt(t)
	push(t, host+"/app:v1", sample(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	s := openStore(t, t.TempDir(), Registries{})
	for ref, want := range map[string]struct {
		kind Kind
		text string
	}{
		host + "/app:v2":        {KindNotFound, "MANIFEST_UNKNOWN"},
		host + "/other:v1":      {KindNotFound, "NAME_UNKNOWN"},
		nobody + "/app:v1":      {KindUnavailable, "connection refused"},
		"Not/Good":              {KindInvalid, "invalid reference format"},
		"10.255.255.1:1/app:v1": {KindUnavailable, ""},
	} {
		patience := time.Minute
		if want.text == "" { // nobody may answer at all
			patience = time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := s.Pull(ctx, ref, nil, nil)
		if err == nil || !strings.Contains(err.Error(), want.text) || want.text != "" && KindOf(err) != want.kind {
			t.Errorf("%s: kind %d, %v", ref, KindOf(err), err)
		}
		cancel()
	}
}

func TestPullPlatform(t *testing.T) {
	host := registryAt(t)
	other := func(arch string) v1.Image {
		i := imageOf(t, v1.Config{Env: []string{"ARCH=" + arch}}, layerOf(t, file("arch", arch)))
		f, err := i.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		f = f.DeepCopy()
		f.Architecture = arch
		if i, err = mutate.ConfigFile(i, f); err != nil {
			t.Fatal(err)
		}
		return i
	}
	index := func(archs ...string) v1.ImageIndex {
		x := v1.ImageIndex(empty.Index)
		for _, a := range archs {
			x = mutate.AppendManifests(x, mutate.IndexAddendum{Add: other(a), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: a}}})
		}
		return x
	}
	for tag, x := range map[string]v1.ImageIndex{"all": index("arm64", "amd64"), "arm": index("arm64")} {
		ref, err := name.ParseReference(host + "/app:" + tag)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(ref, x); err != nil {
			t.Fatal(err)
		}
	}
	push(t, host+"/app:single", other("s390x"))
	s := openStore(t, t.TempDir(), Registries{})
	i, err := s.Pull(t.Context(), host+"/app:all", nil, nil)
	if err != nil || i.Config.Env[0] != "ARCH=amd64" {
		t.Fatalf("%v %v", i, err)
	}
	d, err := index("arm64", "amd64").Digest()
	if err != nil {
		t.Fatal(err)
	}
	same(t, i.RepoDigests, []string{host + "/app@" + d.String()})
	for _, tag := range []string{"arm", "single"} {
		if _, err := s.Pull(t.Context(), host+"/app:"+tag, nil, nil); !IsNotFound(err) || !strings.Contains(err.Error(), "no match for platform") {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

// tokenRegistry is a registry whose requests need a token from its token server, which wants a password.
func tokenRegistry(t *testing.T) string {
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": "t0ken", "expires_in": 60})
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, srv.URL))
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		inner.ServeHTTP(w, r)
	})
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestPullAuth(t *testing.T) {
	host := tokenRegistry(t)
	ref, err := name.ParseReference(host + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, sample(t), remote.WithAuth(&authn.Basic{Username: "me", Password: "secret"})); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Registries{})
	for _, a := range []*Auth{nil, {Username: "me", Password: "wrong"}, {Username: "me", Password: "secret", ServerAddress: "elsewhere:5000"}} {
		if _, err := s.Pull(t.Context(), ref.String(), a, nil); KindOf(err) != KindUnauthorized || !strings.Contains(err.Error(), "UNAUTHORIZED: incorrect username or password") {
			t.Errorf("%v: %v", a, err)
		}
	}
	for _, a := range []*Auth{{Username: "me", Password: "secret"}, {Auth: "bWU6c2VjcmV0", ServerAddress: "http://" + host + "/v1/"}, {RegistryToken: "t0ken"}} {
		i, err := s.Pull(t.Context(), ref.String(), a, nil)
		if err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		if err := s.Remove(t.Context(), i.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"?", "bWU="} {
		if _, err := s.Pull(t.Context(), ref.String(), &Auth{Auth: bad}, nil); KindOf(err) != KindInvalid {
			t.Error(err)
		}
	}
}

func TestPullTLSAndMirrors(t *testing.T) {
	var ns atomic.Value
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := r.URL.Query().Get("ns"); n != "" {
			ns.Store(n)
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	host := strings.TrimPrefix(srv.URL, "https://")
	ref, err := name.ParseReference(host + "/cache/library/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, sample(t), remote.WithTransport(srv.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Registries{})
	if _, err := s.Pull(t.Context(), ref.String(), nil, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	for _, reg := range []Registries{{CAFiles: map[string]string{host: ca}}, {CAFiles: map[string]string{"*": ca}}, {CAFiles: map[string]string{"127.0.0.1": ca}}, {Insecure: []string{"127.0.0.1"}}} {
		s := openStore(t, t.TempDir(), reg)
		if _, err := s.Pull(t.Context(), ref.String(), nil, nil); err != nil {
			t.Errorf("%+v: %v", reg, err)
		}
		reg.Mirrors = map[string][]string{"docker.io": {"http://127.0.0.1:1", "https://" + host + "/cache"}}
		s = openStore(t, t.TempDir(), reg)
		if i, err := s.Pull(t.Context(), "app:v1", nil, nil); err != nil || i.RepoTags[0] != "docker.io/library/app:v1" {
			t.Errorf("%+v: %v %v", reg, i, err)
		}
	}
	if ns.Load() != "docker.io" {
		t.Errorf("the mirror was told %v", ns.Load())
	}
	for _, bad := range []Registries{{CAFiles: map[string]string{"*": ca + "x"}}, {Mirrors: map[string][]string{"*": {"https:///x"}}}} {
		if _, err := Open(Config{Root: t.TempDir(), Registries: bad}); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// TestPlainHTTP: what the configuration spells http:// is spoken to over plain HTTP, and nobody else beyond loopback.
func TestPlainHTTP(t *testing.T) {
	r, err := newRegistries(Registries{Insecure: []string{"192.0.2.9"}})
	if err != nil {
		t.Fatal(err)
	}
	ref := Reference{Domain: "docker.io", Path: "library/app", Tag: "v1"}
	for mirror, plain := range map[string]bool{"http://192.0.2.1:5000": true, "192.0.2.1:5000": false, "https://192.0.2.1:5000": false, "192.0.2.9:5000": true, "http://192.0.2.1:5000/cache": true} {
		e, err := parseEndpoint(mirror, ref)
		if err != nil {
			t.Fatal(err)
		}
		rt := roundTripper{r: r, mirror: e.host, ns: ref.Domain, plain: e.plain}
		ended, cancel := context.WithCancel(t.Context())
		cancel() // nothing is sent: what counts is whether it would be
		for host, want := range map[string]bool{e.host: plain, "192.0.2.200:5000": false} {
			req, err := http.NewRequestWithContext(ended, http.MethodGet, "http://"+host+"/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rt.RoundTrip(req); errors.Is(err, errPlain) == want {
				t.Errorf("mirror %s, request to %s: %v", mirror, host, err)
			}
		}
	}
}

func TestPullCorrupt(t *testing.T) {
	good := layerOf(t, file("good", "x"))
	for _, tt := range []struct {
		name  string
		image func(host string) v1.Image
		spoil func(path string, body []byte) []byte
		text  string
	}{
		{name: "compressed digest", spoil: func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") && len(b) > 0 && b[0] == 0x1f {
				b[len(b)-1] ^= 1
			}
			return b
		}, text: "verifying"},
		{name: "cut off", spoil: func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") && len(b) > 0 && b[0] == 0x1f {
				return b[:len(b)-10]
			}
			return b
		}, text: "does not match expected size"},
		{name: "not an archive", image: func(string) v1.Image {
			return imageOf(t, v1.Config{}, good, staticLayer([]byte(strings.Repeat("junk", 300))))
		}, text: "not a tar archive"},
		{name: "diff id", image: func(string) v1.Image {
			i := imageOf(t, v1.Config{}, good, layerOf(t, file("x", "y")))
			f, err := i.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			f = f.DeepCopy()
			f.RootFS.DiffIDs[1].Hex = strings.Repeat("0", 64)
			if i, err = mutate.ConfigFile(i, f); err != nil {
				t.Fatal(err)
			}
			return i
		}, text: "the image's config says sha256:00000"},
		{name: "traversal", image: func(string) v1.Image { return imageOf(t, v1.Config{}, good, layerOf(t, file("../../x", ""))) }, text: "leads out of the image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var spoil atomic.Bool
			inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !spoil.Load() || tt.spoil == nil {
					inner.ServeHTTP(w, r)
					return
				}
				rec := httptest.NewRecorder()
				inner.ServeHTTP(rec, r)
				b := tt.spoil(r.URL.Path, rec.Body.Bytes())
				for k, v := range rec.Header() {
					if k != "Content-Length" {
						w.Header()[k] = v
					}
				}
				w.WriteHeader(rec.Code)
				_, _ = w.Write(b)
			}))
			defer srv.Close()
			host := strings.TrimPrefix(srv.URL, "http://")
			i := sample(t)
			if tt.image != nil {
				i = tt.image(host)
			}
			push(t, host+"/app:v1", i)
			spoil.Store(true)
			root := t.TempDir()
			s := openStore(t, root, Registries{})
			_, err := s.Pull(t.Context(), host+"/app:v1", nil, nil)
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			if len(s.List()) != 0 {
				t.Errorf("%v", s.List())
			}
			s.background.Wait()
			if d := disk(t, root); len(d) != 0 && !temporary(err) {
				t.Errorf("left behind: %q", d)
			}
			// The same registry, healthy again.
			spoil.Store(false)
			if tt.spoil != nil {
				if _, err := s.Pull(t.Context(), host+"/app:v1", nil, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPullRetries: a connection that breaks in the middle of a layer is no failure.
func TestPullRetries(t *testing.T) {
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	var armed atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && armed.Load() {
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, r)
			if b := rec.Body.Bytes(); b[0] == 0x1f && armed.CompareAndSwap(true, false) {
				w.Header().Set("Content-Length", fmt.Sprint(len(b)))
				_, _ = w.Write(b[:len(b)/2])
				panic(http.ErrAbortHandler)
			}
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/app:v1", sample(t))
	armed.Store(true)
	s := openStore(t, t.TempDir(), Registries{})
	if _, err := s.Pull(t.Context(), host+"/app:v1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if armed.Load() {
		t.Error("nothing was broken")
	}
}

func TestPullOnce(t *testing.T) {
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	var blobs atomic.Int64
	hold := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
			select {
			case <-hold:
			case <-r.Context().Done():
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	push(t, host+"/app:v1", sample(t))
	push(t, host+"/app:v2", imageOf(t, v1.Config{}, layerOf(t, dir("etc"), file("etc/a", "one"), file("etc/b", "two"))))
	s := openStore(t, t.TempDir(), Registries{})

	// One caller gives up, the others go on.
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() {
		_, err := s.Pull(ctx, host+"/app:v1", nil, nil)
		gaveUp <- err
	}()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), fmt.Sprintf("%s/app:v%d", host, 1+i%2), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for blobs.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gaveUp; err == nil {
		t.Error("the cancelled pull succeeded")
	}
	close(hold)
	wg.Wait()
	// Two configs and two layers, one of which both images have.
	if n := blobs.Load(); n != 4 {
		t.Errorf("%d blobs were fetched", n)
	}
}
