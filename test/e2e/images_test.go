package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
	"github.com/celox/celox/test/image"
)

// smallImage is an image that differs from others by its text.
func smallImage(t *testing.T, text string) v1.Image {
	t.Helper()
	img, err := image.Build(image.Spec{Texts: map[string]string{"text": text}, Cmd: []string{"/none"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// layoutArchive is an OCI layout in a tar, with one image under several names.
func layoutArchive(t *testing.T, img v1.Image, tags ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		// Both annotations that are in use: the first has the whole name, the other by the specification only the tag.
		if err := path.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag[strings.LastIndexByte(tag, ':')+1:]})); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// imageNames lists the images of a machine: the names of each, sorted.
func imageNames(t *testing.T, m *machine.Machine) []string {
	t.Helper()
	out, err := m.Celox("image", "list", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		ID       string
		RepoTags []string
		Size     int64
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	var names []string
	for _, i := range list {
		if !strings.HasPrefix(i.ID, "sha256:") || i.Size == 0 {
			t.Errorf("image without id or size: %+v", i)
		}
		names = append(names, i.RepoTags...)
	}
	slices.Sort(names)
	return names
}

func wantImages(t *testing.T, m *machine.Machine, want ...string) {
	t.Helper()
	if got := imageNames(t, m); !slices.Equal(got, want) {
		t.Errorf("images %q, want %q", got, want)
	}
}

// TestImageCommands runs the same commands on a machine where celox does not run yet, and on one where it does.
func TestImageCommands(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	t.Run("without a server", func(t *testing.T) { imageCommands(t, m) })
	// What was made is a cluster's, and reset removes it.
	if _, err := m.Celox("reset", "--yes"); err != nil {
		t.Error(err)
	}
	giveBusybox(t, m)
	c := startOn(t, m)
	runPod(t, c, shellPod("user", counting, ""))
	if _, err := m.Celox("image", "prune"); err != nil {
		t.Error(err)
	}
	wantImages(t, m, "docker.io/library/"+busybox) // a pod uses it
	if _, err := m.Celox("image", "remove", busybox); err != nil {
		t.Error(err)
	}
	wantImages(t, m)
	t.Run("with a server", func(t *testing.T) { imageCommands(t, m) })
}

func imageCommands(t *testing.T, m *machine.Machine) {
	one, other := smallImage(t, "one"), smallImage(t, "other")
	var archive bytes.Buffer
	if err := image.WriteArchive(&archive, map[string]v1.Image{"one:1": one, "one:2": one, "example.com/team/other": other}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Celox("image", "import", file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"imported docker.io/library/one:1\n", "imported docker.io/library/one:2\n", "imported example.com/team/other:latest\n"} {
		has(t, out, line)
	}
	third := layoutArchive(t, smallImage(t, "third"), "localhost:5000/third:1", "localhost:5000/third:2")
	out, err = m.Run(bytes.NewReader(third), bin, "image", "import", "-")
	if err != nil || !strings.Contains(out, "imported localhost:5000/third:1\n") || !strings.Contains(out, "imported localhost:5000/third:2\n") {
		t.Errorf("import of an OCI layout from standard input: %v, it says\n%s", err, out)
	}
	wantImages(t, m, "docker.io/library/one:1", "docker.io/library/one:2", "example.com/team/other:latest", "localhost:5000/third:1", "localhost:5000/third:2")
	out, err = m.Celox("image", "list")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, `IMAGE ID SIZE AGE`)
	contains(t, out, `docker\.io/library/one:2 [0-9a-f]{12} [0-9.]+ k?B \S+`)

	for _, bad := range [][]byte{nil, []byte("no tar at all"), archive.Bytes()[:archive.Len()/2]} {
		if out, err := m.Run(bytes.NewReader(bad), bin, "image", "import", "-"); err == nil {
			t.Errorf("import of %d bytes of rubbish succeeded: %s", len(bad), out)
		} else if strings.Count(err.Error(), "celox: ") != 1 || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("import of rubbish: %v", err)
		}
	}
	if _, err := m.Celox("image", "import", filepath.Join(t.TempDir(), "none.tar")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("import of a file that is not there: %v", err)
	}

	if _, err := m.Celox("image", "remove", "one:1", "example.com/team/other"); err != nil {
		t.Error(err)
	}
	wantImages(t, m, "docker.io/library/one:2", "localhost:5000/third:1", "localhost:5000/third:2")
	if _, err := m.Celox("image", "remove", "one:1"); err == nil || !strings.Contains(err.Error(), "one:1") {
		t.Errorf("removal of an image that is not there: %v", err)
	}
	id, err := one.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Celox("image", "remove", id.String()); err != nil {
		t.Error(err)
	}
	wantImages(t, m, "localhost:5000/third:1", "localhost:5000/third:2")
	out, err = m.Celox("image", "prune")
	if err != nil {
		t.Error(err)
	}
	has(t, out, "removed 1 images")
	wantImages(t, m)
}

// hub is a registry on a machine's loopback, into which images are pushed past all its guards.
type hub struct {
	t       *testing.T
	m       *machine.Machine
	handler http.Handler
}

func newHub(t *testing.T, m *machine.Machine) *hub {
	h := &hub{t: t, m: m, handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	h.serve("127.0.0.1:5000", h.handler, nil)
	return h
}

// serve serves a handler on the machine until the test ends.
func (h *hub) serve(address string, handler http.Handler, c *certificate) {
	h.t.Helper()
	l, err := h.m.NS.Listen("tcp", address)
	if err != nil {
		h.t.Fatal(err)
	}
	srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	if c != nil {
		pair, err := tls.X509KeyPair(c.certPEM, c.keyPEM)
		if err != nil {
			h.t.Fatal(err)
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	h.t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			h.t.Error(err)
		}
		<-done
	})
}

// push puts an image into the registry.
func (h *hub) push(path string, img v1.Image) {
	h.t.Helper()
	ref, err := name.ParseReference("127.0.0.1:5000/"+path, name.Insecure)
	if err != nil {
		h.t.Fatal(err)
	}
	transport := &http.Transport{DialContext: h.m.NS.Dial}
	defer transport.CloseIdleConnections()
	if err := remote.Write(ref, img, remote.WithTransport(transport), remote.WithContext(h.t.Context())); err != nil {
		h.t.Fatal(err)
	}
}

// withToken lets in who brings the token, which it gives to who knows the password.
func withToken(next http.Handler, realm string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "sailor" || password != "oar" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`) // a client that is gone does not matter
			return
		}
		_, _ = io.WriteString(w, `{"token":"aboard"}`) // as above
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer aboard" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="hub"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`) // as above
			return
		}
		next.ServeHTTP(w, r)
	})
	return mux
}

// corrupting changes a byte of a blob, and leaves everything else as it is.
func corrupting(next http.Handler, digest string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
			next.ServeHTTP(w, r)
			return
		}
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		body := rec.body.Bytes()
		if len(body) > 0 {
			body[len(body)/2] ^= 1
		}
		for k, v := range rec.header {
			w.Header()[k] = v
		}
		_, _ = w.Write(body) // a client that is gone does not matter
	})
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(int)             {}

// filesBelow lists the files below a directory.
func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed under our eyes
		}
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPull(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	const outside, lax = "10.99.0.1", "10.99.0.2" // addresses that are not on loopback, but reached through it
	c := startOn(t, m, "--registry-mirror", "hub.example=http://127.0.0.1:5003", "--insecure-registry", lax+":5443")
	if err := m.NS.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, ip := range []string{outside, lax} {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip), Mask: net.CIDRMask(32, 32)}}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	h := newHub(t, m)
	img, err := image.Busybox("sh", "-c", counting)
	if err != nil {
		t.Fatal(err)
	}
	h.push("app:1", img)

	t.Run("plain", func(t *testing.T) {
		out, err := m.Celox("image", "pull", "127.0.0.1:5000/app:1")
		if err != nil || !strings.HasPrefix(out, "pulled 127.0.0.1:5000/app:1 (sha256:") {
			t.Errorf("%v: %q", err, out)
		}
		// The pod needs no second pull.
		p := shellPod("pulled", counting, "")
		p.Spec.Containers[0].Image = "127.0.0.1:5000/app:1"
		runPod(t, c, p)
	})
	t.Run("token", func(t *testing.T) {
		h.serve("127.0.0.1:5001", withToken(h.handler, "http://127.0.0.1:5001"), nil)
		for _, login := range [][]string{nil, {"--login", "sailor:wrong"}} {
			if _, err := m.Celox(append([]string{"image", "pull", "127.0.0.1:5001/app:1"}, login...)...); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
				t.Errorf("pull with %v: %v", login, err)
			}
		}
		if _, err := m.Celox("image", "pull", "--login", "sailor:oar", "127.0.0.1:5001/app:1"); err != nil {
			t.Error(err)
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "login"}, Type: corev1.SecretTypeDockerConfigJson, StringData: map[string]string{
			corev1.DockerConfigJsonKey: `{"auths":{"127.0.0.1:5001":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("sailor:oar")) + `"}}}`,
		}}
		if _, err := c.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		h.push("secret:1", img)
		p := shellPod("with-secret", counting, "")
		p.Spec.Containers[0].Image, p.Spec.ImagePullSecrets = "127.0.0.1:5001/secret:1", []corev1.LocalObjectReference{{Name: "login"}}
		runPod(t, c, p)
	})
	t.Run("unknown CA", func(t *testing.T) {
		cert := leaf(t, authority(t, time.Now().Add(-time.Hour)), "hub", net.ParseIP(outside), net.ParseIP(lax))
		h.serve(outside+":5443", h.handler, &cert)
		h.serve(lax+":5443", h.handler, &cert)
		if _, err := m.Celox("image", "pull", outside+":5443/app:1"); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("pull from a registry that nobody vouches for: %v", err)
		}
		if _, err := m.Celox("image", "pull", lax+":5443/app:1"); err != nil {
			t.Errorf("pull from a registry that the configuration calls insecure: %v", err)
		}
	})
	t.Run("plain outside of loopback", func(t *testing.T) {
		h.serve(outside+":5080", h.handler, nil)
		if _, err := m.Celox("image", "pull", outside+":5080/app:1"); err == nil {
			t.Error("a registry elsewhere was believed without TLS")
		}
	})
	t.Run("mirror", func(t *testing.T) {
		var asked atomic.Int64
		h.serve("127.0.0.1:5003", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			h.handler.ServeHTTP(w, r)
		}), nil)
		if _, err := m.Celox("image", "pull", "hub.example/app:1"); err != nil || asked.Load() == 0 {
			t.Errorf("%v, the mirror was asked %d times", err, asked.Load())
		}
		// Where no server runs, the command itself says where the mirror is.
		before := asked.Load()
		other := filepath.Join(t.TempDir(), "data")
		pull := []string{"image", "pull", "--data-dir", other, "hub.example/app:1"}
		if _, err := m.Celox(append(pull, "--registry-mirror", "hub.example=http://127.0.0.1:5003")...); err != nil || asked.Load() == before {
			t.Errorf("without a server: %v, the mirror was asked %d times", err, asked.Load()-before)
		}
		if _, err := m.Celox("reset", "--yes", "--data-dir", other); err != nil {
			t.Error(err)
		}
	})
	t.Run("corrupt layer", func(t *testing.T) {
		layers, err := smallImage(t, "corrupt").Layers()
		if err != nil {
			t.Fatal(err)
		}
		digest, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		h.push("corrupt:1", smallImage(t, "corrupt"))
		h.serve("127.0.0.1:5004", corrupting(h.handler, digest.String()), nil)
		before, names := filesBelow(t, filepath.Join(m.DataDir, "images")), imageNames(t, m)
		if _, err := m.Celox("image", "pull", "127.0.0.1:5004/corrupt:1"); err == nil || !strings.Contains(err.Error(), digest.String()) {
			t.Errorf("pull of a corrupt layer: %v, want one that names %s", err, digest)
		}
		wantImages(t, m, names...)
		machine.Wait(t, "nothing to be left behind", func(context.Context) error {
			if after := filesBelow(t, filepath.Join(m.DataDir, "images")); !slices.Equal(before, after) {
				return fmt.Errorf("%d files before, now %q", len(before), slices.DeleteFunc(after, func(f string) bool { return slices.Contains(before, f) }))
			}
			return nil
		})
		// The same from a registry that tells the truth.
		if _, err := m.Celox("image", "pull", "127.0.0.1:5000/corrupt:1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("progress", func(t *testing.T) { pullProgress(t, m, h) })
	t.Run("no such image", func(t *testing.T) { noSuchImage(t, c) })
}

// noSuchImage runs a pod with an image that its registry does not know, and looks for the registry's own words.
func noSuchImage(t *testing.T, c kubernetes.Interface) {
	p := shellPod("none", counting, "")
	p.Spec.Containers[0].Image = "127.0.0.1:5000/none:1"
	p, err := c.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitPod(t, c, p, "back off", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "ImagePullBackOff"
	})
	machine.Wait(t, "the events", func(ctx context.Context) error {
		list, err := c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=none"})
		if err != nil {
			return err
		}
		var got strings.Builder
		for _, e := range list.Items {
			fmt.Fprintf(&got, "%s %s: %s\n", e.Type, e.Reason, e.Message)
		}
		for _, want := range []string{
			`Normal Pulling: Pulling image "127.0.0.1:5000/none:1"`,
			`Warning Failed: Failed to pull image "127.0.0.1:5000/none:1": `, `NAME_UNKNOWN`,
			`Warning Failed: Error: ErrImagePull`,
			`Normal BackOff: Back-off pulling image "127.0.0.1:5000/none:1"`,
			`Warning Failed: Error: ImagePullBackOff`,
		} {
			if !strings.Contains(got.String(), want) {
				return fmt.Errorf("no %q in:\n%s", want, got.String())
			}
		}
		return nil
	})
}
