package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	userAgent = "celox"
	// stallTimeout is how long a registry may send nothing in the middle of a layer.
	stallTimeout = 3 * time.Minute
	// layerAttempts is how often a layer is fetched when the connection breaks; the pauses between double from retryPause.
	layerAttempts = 3
	retryPause    = 500 * time.Millisecond
	// progressStep is how much of a layer is read between two reports.
	progressStep = 1 << 20
)

// pull is a running Pull, which may have several callers.
type pull struct {
	cancel  context.CancelFunc
	done    chan struct{}
	image   Image
	err     error
	report  reporter
	waiting int // guarded by Store.mu; the last one to give up ends the pull
}

// reporter passes progress on to all callers of a pull, one report at a time.
type reporter struct {
	mu  sync.Mutex
	fns map[int]func(Progress)
	seq int
}

func (r *reporter) add(f func(Progress)) (remove func()) {
	if f == nil {
		return func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fns == nil {
		r.fns = map[int]func(Progress){}
	}
	r.seq++
	n := r.seq
	r.fns[n] = f
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.fns, n)
	}
}

func (r *reporter) say(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.fns {
		f(p)
	}
}

// Pull fetches the image that ref names from its registry or a mirror of it, unless the registry still means the one that is here. Concurrent
// pulls of one reference with one login are one pull, which ends when all of its callers have given up. progress may be nil.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, progress func(Progress)) (Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Image{}, err
	}
	key := r.String()
	if auth != nil {
		key += fmt.Sprintf(" %q", *auth)
	}
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return Image{}, err
	}
	p := s.pulls[key]
	var remove func()
	if p == nil {
		pctx, cancel := context.WithCancel(s.ctx)
		p = &pull{cancel: cancel, done: make(chan struct{})}
		s.pulls[key] = p
		remove = p.report.add(progress) // before it begins: who asked first is told everything
		s.background.Go(func() {
			defer cancel()
			p.image, p.err = s.pull(pctx, r, auth, p.report.say)
			s.mu.Lock()
			if s.pulls[key] == p {
				delete(s.pulls, key)
			}
			s.mu.Unlock()
			close(p.done)
		})
	}
	p.waiting++
	s.mu.Unlock()
	if remove == nil {
		remove = p.report.add(progress)
	}
	defer remove()
	select {
	case <-p.done:
		return p.image, p.err
	case <-ctx.Done():
		s.mu.Lock()
		if p.waiting--; p.waiting == 0 {
			p.cancel()
			// The next caller starts afresh rather than join what is ending.
			if s.pulls[key] == p {
				delete(s.pulls, key)
			}
		}
		s.mu.Unlock()
		return Image{}, fmt.Errorf("failed to pull image %q: %w", r.String(), ctx.Err())
	}
}

func (s *Store) pull(ctx context.Context, ref Reference, auth *Auth, say func(Progress)) (Image, error) {
	fail := func(err error) (Image, error) {
		return Image{}, &Error{Kind: kindOfPull(err), Op: fmt.Sprintf("failed to pull image %q", ref.String()), Err: err}
	}
	say(Progress{Ref: ref.String(), Stage: StageResolving})
	endpoints, err := s.registries.endpoints(ref)
	if err != nil {
		return fail(err)
	}
	for _, e := range endpoints {
		var i Image
		if i, err = s.pullFrom(ctx, e, ref, auth, say); err == nil {
			say(Progress{Ref: ref.String(), Stage: StageDone})
			return i, nil
		}
		if ctx.Err() != nil {
			break
		}
		if !e.origin {
			s.log.Warn("image: mirror failed", "mirror", e.host, "image", ref.String(), "err", err)
		}
	}
	return fail(err)
}

func (s *Store) pullFrom(ctx context.Context, e endpoint, ref Reference, auth *Auth, say func(Progress)) (Image, error) {
	login, err := auth.login(e)
	if err != nil {
		return Image{}, err
	}
	rt := roundTripper{r: s.registries}
	if !e.origin {
		rt.mirror, rt.ns, rt.plain = e.host, ref.Domain, e.plain
	}
	desc, err := remote.Get(e.ref, remote.WithContext(ctx), remote.WithAuth(login), remote.WithTransport(rt),
		remote.WithPlatform(s.platform.v1()), remote.WithUserAgent(userAgent))
	if err != nil {
		return Image{}, fmt.Errorf("failed to resolve reference %q: %w", ref.String(), err)
	}
	names := names{digests: []string{ref.Name() + "@" + desc.Digest.String()}}
	if ref.Tag != "" {
		names.tags = []string{ref.Name() + ":" + ref.Tag}
	}
	if i, ok, err := s.known(names); ok || err != nil {
		return i, err
	}
	img, err := desc.Image()
	if err != nil {
		if strings.Contains(err.Error(), "no child with platform") {
			err = errorf(KindNotFound, "no match for platform %s in manifest: not found", s.platform)
		}
		return Image{}, err
	}
	src := source{ref: ref.String(), names: names}
	if src.manifest, err = img.RawManifest(); err != nil {
		return Image{}, fmt.Errorf("failed to fetch manifest: %w", err)
	}
	m, err := img.Manifest()
	if err != nil {
		return Image{}, &Error{Kind: KindCorrupt, Op: "manifest", Err: err}
	}
	if m.Config.Size > maxConfigBytes {
		return Image{}, errorf(KindInvalid, "the image's config has %d bytes; %d are allowed", m.Config.Size, maxConfigBytes)
	}
	if src.config, err = img.RawConfigFile(); err != nil {
		return Image{}, fmt.Errorf("failed to fetch config: %w", err)
	}
	for _, d := range m.Layers {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return Image{}, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		src.layers = append(src.layers, layerSource{
			digest: d.Digest.String(), size: d.Size, attempts: layerAttempts,
			open: func(ctx context.Context) (io.ReadCloser, error) { return openRemote(ctx, l) },
		})
	}
	return s.takeOne(ctx, src, say)
}

// openRemote opens a layer's compressed content; a registry that sends nothing for a long time is given up. go-containerregistry checks the
// digest.
func openRemote(ctx context.Context, l v1.Layer) (io.ReadCloser, error) {
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	r := &patientReader{rc: rc}
	r.timer = time.AfterFunc(stallTimeout, func() { r.stalled.Store(true); rc.Close() })
	r.stop = context.AfterFunc(ctx, func() { rc.Close() })
	return r, nil
}

type patientReader struct {
	rc      io.ReadCloser
	timer   *time.Timer
	stop    func() bool
	stalled atomic.Bool
}

func (r *patientReader) Read(p []byte) (int, error) {
	n, err := r.rc.Read(p)
	if r.stalled.Load() {
		return n, errorf(KindUnavailable, "the registry sent nothing for %v: %w", stallTimeout, io.ErrUnexpectedEOF)
	}
	r.timer.Reset(stallTimeout)
	return n, err
}

func (r *patientReader) Close() error {
	r.timer.Stop()
	r.stop()
	return r.rc.Close()
}

// known returns the image that a registry's digest means, if it is here already, and gives it the name that was pulled.
func (s *Store) known(n names) (Image, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.index.Images {
		if slices.ContainsFunc(n.digests, func(d string) bool { return slices.Contains(i.Digests, d) }) {
			if !slices.ContainsFunc(n.tags, func(t string) bool { return !slices.Contains(i.Tags, t) }) {
				return i.image(), true, nil
			}
			err := s.record(taken{record: *i, names: n})
			return s.index.Images[i.ID].image(), true, err
		}
	}
	return Image{}, false, nil
}

// temporary says whether to fetch a layer again may help.
func temporary(err error) bool {
	var t *transport.Error
	if errors.As(err, &t) {
		return t.Temporary()
	}
	var n net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &n)
}

// kindOfPull classifies what go-containerregistry, the network and this package say.
func kindOfPull(err error) Kind {
	if k := KindOf(err); k != KindOther {
		return k
	}
	if strings.Contains(err.Error(), "error verifying ") { // the text of a type that isn't exported
		return KindCorrupt
	}
	var t *transport.Error
	if errors.As(err, &t) {
		for _, d := range t.Errors {
			switch d.Code {
			case transport.UnauthorizedErrorCode, transport.DeniedErrorCode:
				return KindUnauthorized
			case transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode, transport.BlobUnknownErrorCode, transport.ManifestBlobUnknownErrorCode:
				return KindNotFound
			}
		}
		switch t.StatusCode {
		case http.StatusNotFound:
			return KindNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return KindUnauthorized
		}
		return KindUnavailable
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return KindOther
	}
	if temporary(err) || errors.Is(err, errPlain) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return KindUnavailable
	}
	return KindOther
}
