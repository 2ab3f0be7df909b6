package images

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Limits of an image's description.
const (
	maxConfigBytes   = 8 << 20
	maxManifestBytes = 4 << 20
	// maxLayers is how many layers overlayfs mounts (OVL_MAX_STACK).
	maxLayers = 500
	// zstdWindow bounds the memory of a decoder.
	zstdWindow = 128 << 20
)

// source is an image that is being taken in, from a registry or an archive.
type source struct {
	ref      string // for progress and errors
	names    names
	manifest []byte // nil if the archive has none
	config   []byte
	layers   []layerSource // bottom first
}

type names struct{ tags, digests []string }

type layerSource struct {
	digest   string // of the compressed form; what progress calls the layer
	size     int64  // compressed
	attempts int
	open     func(context.Context) (io.ReadCloser, error)
}

// taken is an image whose layers are all in place, but which the index doesn't name yet.
type taken struct {
	record           imageRecord
	names            names
	manifest, config []byte
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// takeOne takes an image in and records it.
func (s *Store) takeOne(ctx context.Context, src source, say func(Progress)) (Image, error) {
	t, unpin, err := s.take(ctx, src, say)
	if err != nil {
		return Image{}, err
	}
	defer unpin()
	if err := s.syncFS(); err != nil {
		return Image{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.record(t); err != nil {
		return Image{}, err
	}
	return s.index.Images[t.record.ID].image(), nil
}

// putBlobs keeps what describes an image. s.mu must be held, or a concurrent removal could take them away again.
func (s *Store) putBlobs(t taken) error {
	for _, b := range [][]byte{t.config, t.manifest} {
		if b != nil {
			if err := s.putBlob(digestOf(b), b); err != nil {
				return err
			}
		}
	}
	return nil
}

// record names images in the index. A tag leaves the image that had it before. Their layers must be on the disk (syncFS). s.mu must be held.
func (s *Store) record(all ...taken) error {
	for _, t := range all {
		if err := s.putBlobs(t); err != nil {
			return err
		}
	}
	before := map[string]*imageRecord{}
	set := func(i *imageRecord) {
		if _, ok := before[i.ID]; !ok {
			before[i.ID] = s.index.Images[i.ID]
		}
		s.index.Images[i.ID] = i
	}
	for _, t := range all {
		r := t.record
		if old := s.index.Images[r.ID]; old != nil {
			blobs := append(slices.Clone(old.Blobs), r.Blobs...)
			slices.Sort(blobs)
			r.Tags, r.Digests, r.Pulled, r.Blobs = old.Tags, old.Digests, old.Pulled, slices.Compact(blobs)
		}
		r.Tags, r.Digests = union(r.Tags, t.names.tags), union(r.Digests, t.names.digests)
		for _, other := range s.index.Images {
			if other.ID == r.ID || !slices.ContainsFunc(t.names.tags, func(tag string) bool { return slices.Contains(other.Tags, tag) }) {
				continue
			}
			o := *other
			o.Tags = slices.DeleteFunc(slices.Clone(o.Tags), func(tag string) bool { return slices.Contains(t.names.tags, tag) })
			set(&o)
		}
		set(&r)
	}
	if err := s.save(); err != nil {
		for id, i := range before {
			if s.index.Images[id] = i; i == nil {
				delete(s.index.Images, id)
			}
		}
		return err
	}
	return nil
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// take gets the layers of an image that aren't here yet. The caller records the image, then calls unpin; until then nobody
// removes its layers.
func (s *Store) take(ctx context.Context, src source, say func(Progress)) (t taken, unpin func(), err error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(src.config, &c); err != nil {
		return taken{}, nil, errorf(KindCorrupt, "the image's config: %w", err)
	}
	if !s.platform.matches(c.OS, c.Architecture, c.Variant) {
		return taken{}, nil, errorf(KindNotFound, "no match for platform %s in manifest: the image is for %s/%s: not found", s.platform, c.OS, c.Architecture)
	}
	if c.RootFS.Type != "" && c.RootFS.Type != "layers" {
		return taken{}, nil, errorf(KindInvalid, "a root file system of type %q is not supported", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(src.layers) {
		return taken{}, nil, errorf(KindCorrupt, "the image's config has %d layers, its manifest %d", len(c.RootFS.DiffIDs), len(src.layers))
	}
	if len(src.layers) > maxLayers {
		return taken{}, nil, errorf(KindInvalid, "the image has %d layers; %d can be mounted", len(src.layers), maxLayers)
	}
	if len(src.layers) == 0 {
		return taken{}, nil, errorf(KindInvalid, "the image has no layer")
	}
	f := &fetch{s: s, src: src, say: say, layers: make([]fetched, len(src.layers))}
	chain := ""
	for i, d := range c.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return taken{}, nil, errorf(KindInvalid, "layer %d: digests by %s are not supported", i, d.Algorithm)
		}
		f.layers[i].diffID = d.String()
		if i == 0 {
			chain = d.String()
		} else {
			chain = digestOf([]byte(chain + " " + d.String())) // OCI image specification, "Layer ChainID"
		}
		f.layers[i].chainKey = "chain:" + chain
	}
	keys, err := f.run(ctx)
	if err != nil {
		f.drop(!temporary(err) && ctx.Err() == nil)
		return taken{}, nil, err
	}
	r := imageRecord{
		ID: digestOf(src.config), Layers: keys, Created: c.Created.Time.UTC(), Pulled: time.Now().UTC(),
		Platform: platform{c.OS, c.Architecture, c.Variant}.String(),
		Config: ImageConfig{
			Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, User: c.Config.User, WorkingDir: c.Config.WorkingDir,
			Labels: c.Config.Labels, StopSignal: c.Config.StopSignal, Volumes: c.Config.Volumes, ExposedPorts: c.Config.ExposedPorts,
		},
		Size: int64(len(src.config)),
	}
	r.Blobs = []string{r.ID}
	if src.manifest != nil {
		r.Blobs = append(r.Blobs, digestOf(src.manifest))
	}
	s.mu.Lock()
	for _, k := range keys {
		r.Size += s.index.Layers[k].Bytes
	}
	s.mu.Unlock()
	return taken{record: r, names: src.names, manifest: src.manifest, config: src.config}, func() { f.drop(false) }, nil
}

// fetch gets the layers of one image.
type fetch struct {
	s      *Store
	src    source
	say    func(Progress)
	layers []fetched

	mu    sync.Mutex // guards what follows
	pins  []string
	added []string // keys of layers that this fetch brought
}

// fetched is one layer: either here already (key), or unpacked in dir and waiting for the layers below it.
type fetched struct {
	diffID, chainKey string
	key              string
	dir              string
	unpacked         unpacked
}

// run returns the keys of all layers, bottom first, which are then pinned.
func (f *fetch) run(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, src := range f.src.layers {
		f.say(Progress{Ref: f.src.ref, Stage: StageWaiting, Layer: src.digest, Total: src.size})
	}
	slots := make(chan struct{}, f.s.limits.ParallelLayers)
	var wg sync.WaitGroup
	for i := range f.layers {
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return
			}
			if err := f.one(ctx, i); err != nil {
				cancel(fmt.Errorf("failed to get layer %s: %w", f.src.layers[i].digest, err))
			}
		})
	}
	wg.Wait()
	defer func() {
		for _, l := range f.layers {
			if l.dir != "" {
				f.s.mu.Lock()
				f.s.discard(l.dir)
				f.s.mu.Unlock()
			}
		}
	}()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	keys := make([]string, len(f.layers))
	var lower []string // topmost first
	for i := range f.layers {
		l := &f.layers[i]
		if l.key == "" {
			if err := complete(l.dir, l.unpacked, lower); err != nil {
				return nil, fmt.Errorf("layer %s: %w", f.src.layers[i].digest, layerError(err))
			}
			l.key = l.chainKey
			if err := f.add(l); err != nil {
				return nil, err
			}
		}
		keys[i] = l.key
		f.s.mu.Lock()
		rec := f.s.index.Layers[l.key]
		f.s.mu.Unlock()
		if rec.OpaqueRoot {
			lower = nil
		}
		lower = slices.Insert(lower, 0, f.s.path("s", rec.Dir))
	}
	return keys, nil
}

// one gets one layer, unless it is here or somebody else is getting it.
func (f *fetch) one(ctx context.Context, i int) error {
	l, src := &f.layers[i], f.src.layers[i]
	for {
		f.s.mu.Lock()
		for _, key := range []string{l.diffID, l.chainKey} {
			if f.s.index.Layers[key] != nil {
				l.key = key
				f.pin(key)
				f.s.mu.Unlock()
				f.say(Progress{Ref: f.src.ref, Stage: StageExists, Layer: src.digest, Current: src.size, Total: src.size})
				return nil
			}
		}
		wait := f.s.fetching[l.diffID]
		if wait == nil {
			wait = make(chan bool)
			f.s.fetching[l.diffID] = wait
			f.s.mu.Unlock()
			err := f.get(ctx, l, src)
			f.s.mu.Lock()
			delete(f.s.fetching, l.diffID)
			f.s.mu.Unlock()
			close(wait)
			return err
		}
		f.s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fetch) get(ctx context.Context, l *fetched, src layerSource) error {
	pause := retryPause
	for attempt := 1; ; attempt++ {
		err := f.unpack(ctx, l, src)
		if err == nil {
			break
		}
		if attempt >= src.attempts || !temporary(err) || ctx.Err() != nil {
			return err
		}
		f.s.log.Info("image: layer is fetched again", "image", f.src.ref, "layer", src.digest, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
		pause *= 2
	}
	f.say(Progress{Ref: f.src.ref, Stage: StageDone, Layer: src.digest, Current: src.size, Total: src.size})
	if len(l.unpacked.implicit) > 0 || len(l.unpacked.links) > 0 {
		return nil // needs the layers below it
	}
	l.key = l.diffID
	return f.add(l)
}

// unpack reads the layer once, and leaves nothing behind if that fails.
func (f *fetch) unpack(ctx context.Context, l *fetched, src layerSource) error {
	dir, err := os.MkdirTemp(f.s.path("tmp"), "layer-")
	if err != nil {
		return layerError(err)
	}
	if l.unpacked, err = f.unpackTo(ctx, dir, l.diffID, src); err != nil {
		f.s.mu.Lock()
		f.s.discard(dir)
		f.s.mu.Unlock()
		return err
	}
	l.dir = dir
	return nil
}

func (f *fetch) unpackTo(ctx context.Context, dir, diffID string, src layerSource) (unpacked, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return unpacked{}, err
	}
	rc, err := src.open(ctx)
	if err != nil {
		return unpacked{}, err
	}
	defer rc.Close()
	in := &meter{r: rc, step: func(n int64) {
		f.say(Progress{Ref: f.src.ref, Stage: StagePulling, Layer: src.digest, Current: n, Total: src.size})
	}}
	plain, err := decompress(in)
	if err != nil {
		return unpacked{}, err
	}
	defer plain.Close()
	h := sha256.New()
	u, err := unpack(ctx, dir, io.TeeReader(plain, h), f.s.limits)
	if err != nil {
		if ctx.Err() != nil {
			return unpacked{}, context.Cause(ctx)
		}
		// Broken content is most likely what the digest says, too, which is the better message.
		if err = compressionError(err); KindOf(err) == KindCorrupt {
			if _, verr := io.Copy(io.Discard, in); verr != nil && kindOfPull(verr) == KindCorrupt {
				err = verr
			}
		}
		return unpacked{}, err
	}
	// The rest of the compressed form, if the archive ended before it: its digest is verified at the end.
	if n, err := io.Copy(io.Discard, io.LimitReader(in, maxManifestBytes)); err != nil {
		return unpacked{}, err
	} else if n == maxManifestBytes {
		return unpacked{}, errorf(KindCorrupt, "data after the end of the layer")
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != diffID {
		return unpacked{}, errorf(KindCorrupt, "the layer's content has digest %s, but the image's config says %s", got, diffID)
	}
	return u, nil
}

// add makes an unpacked layer one of the store's.
func (f *fetch) add(l *fetched) error {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	f.pin(l.key)
	if s.index.Layers[l.key] != nil {
		return nil // somebody else was faster; l.dir is discarded at the end
	}
	short := strconv.FormatInt(s.index.Next, 36)
	if err := os.Rename(l.dir, s.path("s", short)); err != nil {
		return fmt.Errorf("keep layer: %w", err)
	}
	s.index.Next++
	l.dir = ""
	s.index.Layers[l.key] = &layerRecord{
		Dir: short, Bytes: l.unpacked.bytes, Entries: l.unpacked.entries, Root: l.unpacked.root, OpaqueRoot: l.unpacked.opaqueRoot,
	}
	f.mu.Lock()
	f.added = append(f.added, l.key)
	f.mu.Unlock()
	return nil
}

// pin keeps a layer from being removed until drop. s.mu must be held.
func (f *fetch) pin(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.s.pins[key]++
	f.pins = append(f.pins, key)
}

// drop gives the layers free. remove says to remove those that came with this fetch and that nothing else needs; otherwise they
// stay until the next Prune or Open, so that the next attempt is shorter.
func (f *fetch) drop(remove bool) {
	s := f.s
	s.mu.Lock()
	defer s.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range f.pins {
		if s.pins[key]--; s.pins[key] == 0 {
			delete(s.pins, key)
		}
	}
	f.pins = nil
	if !remove {
		return
	}
	used := s.layersInUse()
	for _, key := range f.added {
		if l := s.index.Layers[key]; l != nil && !used[key] {
			delete(s.index.Layers, key)
			s.discard(s.path("s", l.Dir))
		}
	}
}

// meter counts what is read.
type meter struct {
	r    io.Reader
	n    int64
	next int64
	step func(n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.n += int64(n); m.n >= m.next {
		m.next = m.n + progressStep
		m.step(m.n)
	}
	return n, err
}

// decompress recognises gzip and zstd by their first bytes; everything else is left as it is.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 128<<10)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, compressionError(err)
		}
		return z, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, compressionError(err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X'}):
		return nil, errorf(KindInvalid, "only gzip and zstd compression is supported")
	}
	return io.NopCloser(b), nil
}

// compressionError gives broken gzip or zstd data its kind.
func compressionError(err error) error {
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, zstd.ErrCRCMismatch) ||
		errors.Is(err, zstd.ErrWindowSizeExceeded) || strings.HasPrefix(err.Error(), "flate: corrupt") {
		return &Error{Kind: KindCorrupt, Op: "broken compression", Err: err}
	}
	return err
}
