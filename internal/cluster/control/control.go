package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/celox/celox/internal/runtime/images"
)

// Images is the image store, here or in a running Celox.
type Images interface {
	Import(ctx context.Context, r io.Reader, progress func(images.Progress)) ([]images.Image, error)
	Pull(ctx context.Context, ref string, auth *images.Auth, progress func(images.Progress)) (images.Image, error)
	List(ctx context.Context) ([]images.Image, error)
	Remove(ctx context.Context, ref string) error
	// Prune removes the images that no container uses.
	Prune(ctx context.Context) ([]images.Image, error)
}

// message is one line of an answer: progress, or the end with a result or an error.
type message struct {
	Progress *images.Progress `json:"progress,omitempty"`
	Images   []images.Image   `json:"images,omitempty"`
	Error    string           `json:"error,omitempty"`
	Done     bool             `json:"done,omitempty"`
}

// pullRequest is the body of a pull.
type pullRequest struct {
	Ref  string       `json:"ref"`
	Auth *images.Auth `json:"auth,omitempty"`
}

// maxRest is how much of a request is read that nobody asked for.
const maxRest = 1 << 20

// Handler serves i.
func Handler(i Images) http.Handler {
	mux := http.NewServeMux()
	answer := func(do func(r *http.Request, progress func(images.Progress)) ([]images.Image, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			enc := json.NewEncoder(w)
			flush := http.NewResponseController(w)
			// Progress is written while the archive is still being read.
			if err := flush.EnableFullDuplex(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			// A client that is gone shows in r.Context(); what cannot be written to it need not be.
			send := func(m message) { _ = errors.Join(enc.Encode(m), flush.Flush()) }
			// Progress comes from many goroutines.
			lines := make(chan images.Progress)
			finished := make(chan struct{})
			go func() {
				defer close(finished)
				for p := range lines {
					send(message{Progress: &p})
				}
			}()
			got, err := do(r, func(p images.Progress) { lines <- p })
			close(lines)
			<-finished
			// What an archive has behind its end: while it isn't read the server reads on by itself, and in both directions at once it
			// would stumble over that when the next request comes.
			_, _ = io.CopyN(io.Discard, r.Body, maxRest)
			end := message{Images: got, Done: true}
			if err != nil {
				end.Error = err.Error()
			}
			send(end)
		}
	}
	mux.HandleFunc("POST /images/import", answer(func(r *http.Request, progress func(images.Progress)) ([]images.Image, error) {
		return i.Import(r.Context(), r.Body, progress)
	}))
	mux.HandleFunc("POST /images/pull", answer(func(r *http.Request, progress func(images.Progress)) ([]images.Image, error) {
		var p pullRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&p); err != nil {
			return nil, fmt.Errorf("decode request: %w", err)
		}
		img, err := i.Pull(r.Context(), p.Ref, p.Auth, progress)
		if err != nil {
			return nil, err
		}
		return []images.Image{img}, nil
	}))
	mux.HandleFunc("GET /images", answer(func(r *http.Request, _ func(images.Progress)) ([]images.Image, error) {
		return i.List(r.Context())
	}))
	mux.HandleFunc("DELETE /images", answer(func(r *http.Request, _ func(images.Progress)) ([]images.Image, error) {
		return nil, i.Remove(r.Context(), r.URL.Query().Get("ref"))
	}))
	mux.HandleFunc("POST /images/prune", answer(func(r *http.Request, _ func(images.Progress)) ([]images.Image, error) {
		return i.Prune(r.Context())
	}))
	return mux
}

// Socket is where the API of a data directory is served.
func Socket(dataDir string) string { return filepath.Join(dataDir, "run", "celox.sock") }

// Listen makes the socket. A path that is longer than the kernel's 107 bytes is reached through a descriptor of its directory.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	short, release, err := shorten(path)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // its name may be the short one; the next start removes the file
	return l, os.Chmod(path, 0o600)
}

const maxSocketPath = 107

func shorten(path string) (string, func(), error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("control socket: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

// Client speaks to a running Celox.
type Client struct{ http *http.Client }

// ErrNotRunning says that no Celox serves the data directory.
var ErrNotRunning = errors.New("celox is not running on this data directory")

// Dial finds the Celox of a data directory, or returns ErrNotRunning.
func Dial(ctx context.Context, dataDir string) (*Client, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		short, release, err := shorten(Socket(dataDir))
		if err != nil {
			return nil, err
		}
		defer release()
		return (&net.Dialer{}).DialContext(ctx, "unix", short)
	}
	conn, err := dial(ctx)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, ErrNotRunning
	case err != nil:
		return nil, fmt.Errorf("reach celox: %w", err)
	}
	_ = conn.Close() // it only proved that somebody listens
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}, nil
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, progress func(images.Progress)) ([]images.Image, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://celox"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("reach celox: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or given up on
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("celox answered %s: is it another version than this command?", resp.Status)
	}
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var m message
		if err := dec.Decode(&m); err != nil {
			return nil, fmt.Errorf("celox broke off its answer: %w", err)
		}
		if m.Progress != nil && progress != nil {
			progress(*m.Progress)
		}
		if m.Done {
			if m.Error != "" {
				return nil, errors.New(m.Error)
			}
			return m.Images, nil
		}
	}
}

// Import implements Images.
func (c *Client) Import(ctx context.Context, r io.Reader, progress func(images.Progress)) ([]images.Image, error) {
	return c.do(ctx, http.MethodPost, "/images/import", r, progress)
}

// Pull implements Images.
func (c *Client) Pull(ctx context.Context, ref string, auth *images.Auth, progress func(images.Progress)) (images.Image, error) {
	body, err := json.Marshal(pullRequest{Ref: ref, Auth: auth})
	if err != nil {
		return images.Image{}, err
	}
	got, err := c.do(ctx, http.MethodPost, "/images/pull", strings.NewReader(string(body)), progress)
	if err != nil || len(got) == 0 {
		return images.Image{}, err
	}
	return got[0], nil
}

// List implements Images.
func (c *Client) List(ctx context.Context) ([]images.Image, error) {
	return c.do(ctx, http.MethodGet, "/images", nil, nil)
}

// Remove implements Images.
func (c *Client) Remove(ctx context.Context, ref string) error {
	_, err := c.do(ctx, http.MethodDelete, "/images?"+url.Values{"ref": {ref}}.Encode(), nil, nil)
	return err
}

// Prune implements Images.
func (c *Client) Prune(ctx context.Context) ([]images.Image, error) {
	return c.do(ctx, http.MethodPost, "/images/prune", nil, nil)
}

// Local works on the store of this process, which knows itself what images its containers were made from.
type Local struct{ Store *images.Store }

// Import implements Images.
func (l Local) Import(ctx context.Context, r io.Reader, progress func(images.Progress)) ([]images.Image, error) {
	return l.Store.Import(ctx, r, progress)
}

// Pull implements Images.
func (l Local) Pull(ctx context.Context, ref string, auth *images.Auth, progress func(images.Progress)) (images.Image, error) {
	return l.Store.Pull(ctx, ref, auth, progress)
}

// List implements Images.
func (l Local) List(context.Context) ([]images.Image, error) { return l.Store.List(), nil }

// Remove implements Images.
func (l Local) Remove(ctx context.Context, ref string) error { return l.Store.Remove(ctx, ref) }

// Prune implements Images.
func (l Local) Prune(context.Context) ([]images.Image, error) {
	return l.Store.Prune(func(string) bool { return false })
}
