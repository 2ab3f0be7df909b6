package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/celox/celox/test/e2e/machine"
	"github.com/celox/celox/test/image"
)

// largeImage is an image whose layer has some megabytes that cannot be compressed much.
func largeImage(t *testing.T, megabytes int) v1.Image {
	t.Helper()
	noise := make([]byte, megabytes<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	img, err := image.Build(image.Spec{Texts: map[string]string{"noise": base64.StdEncoding.EncodeToString(noise)}, Cmd: []string{"/none"}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// halting sends the first half of a blob, and the other when the gate is opened.
func halting(next http.Handler, digest string, gate <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+digest) {
			next.ServeHTTP(w, r)
			return
		}
		rec := &recorder{header: http.Header{}}
		next.ServeHTTP(rec, r)
		for k, v := range rec.header {
			w.Header()[k] = v
		}
		body := rec.body.Bytes()
		_, _ = w.Write(body[:len(body)/2]) // a client that is gone does not matter
		_ = http.NewResponseController(w).Flush()
		select {
		case <-gate:
			_, _ = w.Write(body[len(body)/2:])
		case <-r.Context().Done():
		}
	})
}

// pullProgress pulls from a registry that stops in the middle of a layer: the bar has to be there, and to be full in the end.
func pullProgress(t *testing.T, m *machine.Machine, h *hub) {
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "data")
	defer func() {
		if _, err := m.Celox("reset", "--yes", "--data-dir", other); err != nil {
			t.Error(err)
		}
	}()
	img := largeImage(t, 4)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	h.push("large:1", img)
	for i, tt := range []struct{ name, dataDir, address string }{{"by the server", m.DataDir, "127.0.0.1:5011"}, {"without a server", other, "127.0.0.1:5012"}} {
		t.Run(tt.name, func(t *testing.T) {
			gate := make(chan struct{})
			h := *h
			h.t = t
			h.serve(tt.address, halting(h.handler, digest.String(), gate), nil)
			term := newTerminal(t, 25, 100)
			cmd := m.Command(bin, "image", "pull", "--data-dir", tt.dataDir, tt.address+"/large:1")
			term.start(&user{t: t, m: m}, cmd)
			term.expect("[===")
			term.expect("= ") // neither empty nor full
			term.expect(" MB / ")
			close(gate)
			term.expect("[" + strings.Repeat("=", 50) + "] ")
			term.expect(" MB in ")
			term.expect("pulled " + tt.address + "/large:1 (sha256:")
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}

			// For a program that reads along there are lines, and for one that wants JSON nothing else.
			if _, err := m.Celox("image", "remove", "--data-dir", tt.dataDir, tt.address+"/large:1"); err != nil {
				t.Fatal(err)
			}
			pull := func(args ...string) (string, string) {
				cmd := m.Command(bin, append([]string{"image", "pull", "--data-dir", tt.dataDir}, args...)...)
				var out, errOut bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errOut
				if err := m.NS.Start(cmd); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					t.Fatalf("%v: %s%s", err, out.String(), errOut.String())
				}
				return out.String(), errOut.String()
			}
			out, errOut := pull("127.0.0.1:5000/large:1")
			like(t, errOut, `layer [0-9a-f]{12} done, [0-9.]+ MB`)
			like(t, out, `pulled 127\.0\.0\.1:5000/large:1 \(sha256:[0-9a-f]{64}\)`)
			out, errOut = pull("-o", "json", "127.0.0.1:5000/app:1")
			var got struct {
				ID       string
				RepoTags []string
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil || errOut != "" || !strings.HasPrefix(got.ID, "sha256:") || !slices.Contains(got.RepoTags, "127.0.0.1:5000/app:1") {
				t.Errorf("as JSON: %v, %s%s", err, out, errOut)
			}
			// An archive that comes through a pipe has no known size.
			var archive bytes.Buffer
			if err := image.WriteArchive(&archive, map[string]v1.Image{"piped:1": largeImage(t, 1+i)}); err != nil {
				t.Fatal(err)
			}
			imported, err := m.Run(io.MultiReader(&archive), bin, "image", "import", "--data-dir", tt.dataDir, "-o", "json", "-")
			var list []struct{ RepoTags []string }
			if err := json.Unmarshal([]byte(imported), &list); err != nil || len(list) != 1 || list[0].RepoTags[0] != "docker.io/library/piped:1" {
				t.Errorf("an import as JSON: %v, %s", err, imported)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}
