package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Limits of an archive.
const (
	maxArchiveEntries = 100_000
	maxArchiveImages  = 1000
	// maxIndexDepth is how deep indexes may be nested in one another.
	maxIndexDepth = 4
	// Files up to smallMember bytes, maxHeld in all, are held in memory rather than copied.
	smallMember, maxHeld = 4 << 10, 16 << 20
)

// Annotations by which an OCI layout names its images: containerd's and BuildKit's, then the specification's.
const (
	annotationName    = "io.containerd.image.name"
	annotationRefName = "org.opencontainers.image.ref.name"
)

// Import takes in all images of an archive, as "docker save" writes it or an OCI layout, plain or compressed by gzip or zstd. It
// is all or nothing. From a file, r, that isn't compressed the layers are read in place; otherwise the archive is copied to the store first.
func (s *Store) Import(ctx context.Context, r io.Reader, progress func(Progress)) ([]Image, error) {
	s.mu.Lock()
	err := s.usable()
	if err == nil {
		s.background.Add(1)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer s.background.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	var rep reporter
	rep.add(progress)
	out, err := s.importArchive(ctx, r, rep.say)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Kind: KindOf(err), Op: "failed to import images", Err: err}
	}
	return out, nil
}

func (s *Store) importArchive(ctx context.Context, r io.Reader, say func(Progress)) ([]Image, error) {
	a, err := s.readArchive(ctx, r, say)
	if a != nil {
		defer a.close()
	}
	if err != nil {
		return nil, err
	}
	sources, err := a.images(s.platform)
	if err != nil {
		return nil, err
	}
	var all []taken
	for _, src := range sources {
		t, unpin, err := s.take(ctx, src, say)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", src.ref, err)
		}
		defer unpin()
		all = append(all, t)
	}
	if err := s.syncFS(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.record(all...); err != nil {
		return nil, err
	}
	var out []Image
	for _, t := range all {
		if !slices.ContainsFunc(out, func(i Image) bool { return i.ID == t.record.ID }) {
			out = append(out, s.index.Images[t.record.ID].image())
		}
	}
	for _, i := range out {
		say(Progress{Ref: strings.Join(append(slices.Clone(i.RepoTags), i.RepoDigests...), " "), Stage: StageDone})
	}
	return out, nil
}

// archive is an archive whose files can be read in any order.
type archive struct {
	files map[string]member
	dir   string // of the copies; empty if the archive is read in place
	held  int64  // bytes of the members' content
}

// member is a file of an archive: a copy, a section of the archive, or a link to another member.
type member struct {
	copy    string
	at      io.ReaderAt
	off     int64
	size    int64
	link    string
	content []byte // of small files that were read already
}

// seekable is an archive that can be read in place.
type seekable interface {
	io.ReaderAt
	io.Seeker
}

// readArchive finds or copies the files of the archive. The archive must be closed if it isn't nil.
func (s *Store) readArchive(ctx context.Context, r io.Reader, say func(Progress)) (*archive, error) {
	a := &archive{files: map[string]member{}}
	var place seekable
	var base int64
	if f, ok := r.(seekable); ok {
		if off, err := f.Seek(0, io.SeekCurrent); err == nil { // not so for a pipe
			var head [512]byte
			n, err := f.ReadAt(head[:], off)
			if (err == nil || err == io.EOF) && n == len(head) && bytes.HasPrefix(head[257:], []byte("ustar")) {
				place, base = f, off
			}
		}
	}
	var tr *tar.Reader
	position := func() (int64, error) { return 0, nil }
	if place != nil {
		// archive/tar seeks over what isn't read.
		section := io.NewSectionReader(place, base, 1<<62)
		tr = tar.NewReader(section)
		position = func() (int64, error) {
			off, err := section.Seek(0, io.SeekCurrent)
			return base + off, err
		}
	} else {
		in := &meter{r: r, step: func(n int64) { say(Progress{Stage: StageReading, Current: n}) }}
		plain, err := decompress(in)
		if err != nil {
			return nil, err
		}
		defer plain.Close()
		tr = tar.NewReader(onlyReader{&limitReader{r: plain, left: s.limits.ArchiveBytes}})
		if a.dir, err = os.MkdirTemp(s.path("tmp"), "import-"); err != nil {
			return nil, layerError(err)
		}
	}
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return a, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return a, archiveError(err)
		}
		if n >= maxArchiveEntries {
			return a, errorf(KindInvalid, "the archive has more than %d files", maxArchiveEntries)
		}
		name, err := clean(h.Name)
		if err != nil {
			return a, fmt.Errorf("archive entry %q: %w", h.Name, err)
		}
		m := member{size: h.Size}
		switch h.Typeflag {
		case tar.TypeReg:
			if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" {
				return a, errorf(KindInvalid, "archive entry %q: sparse files are not supported", h.Name)
			}
			if place != nil {
				m.at = place
				if m.off, err = position(); err != nil {
					return a, fmt.Errorf("read archive: %w", err)
				}
			} else if m, err = a.keep(tr, n, h.Size); err != nil {
				return a, fmt.Errorf("archive entry %q: %w", h.Name, archiveError(err))
			}
		case tar.TypeSymlink: // old versions of Docker write a layer that is there twice as a link
			m.link = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			m.link = path.Clean(h.Linkname)
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return a, errorf(KindInvalid, "archive entry %q is not a file", h.Name)
		}
		a.files[name] = m
	}
}

func archiveError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errorf(KindCorrupt, "the archive is cut off: %w", err)
	}
	return compressionError(layerError(err))
}

// keep copies one file of the archive; its name on the disk has nothing to do with its name there.
func (a *archive) keep(r io.Reader, n int, size int64) (member, error) {
	if size <= smallMember && a.held+size <= maxHeld {
		a.held += size
		b, err := io.ReadAll(r)
		return member{content: b, size: int64(len(b))}, err
	}
	m := member{copy: path.Join(a.dir, strconv.Itoa(n)), size: size}
	f, err := os.OpenFile(m.copy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return m, err
	}
	_, err = io.Copy(f, r)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return m, err
}

func (a *archive) close() {
	if a.dir != "" {
		os.RemoveAll(a.dir) // what fails here is removed by the next Open
	}
}

// resolve returns the file that name leads to.
func (a *archive) resolve(name string) (member, error) {
	name = path.Clean(name)
	for range maxLinks {
		m, ok := a.files[name]
		if !ok {
			return member{}, errorf(KindCorrupt, "the archive has no file %q", name)
		}
		if m.link == "" {
			return m, nil
		}
		name = m.link
	}
	return member{}, errorf(KindCorrupt, "the archive's links at %q go in circles", name)
}

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	m, err := a.resolve(name)
	switch {
	case err != nil:
		return nil, 0, err
	case m.at != nil:
		return io.NopCloser(io.NewSectionReader(m.at, m.off, m.size)), m.size, nil
	case m.copy != "":
		f, err := os.Open(m.copy)
		return f, m.size, err
	}
	return io.NopCloser(bytes.NewReader(m.content)), m.size, nil
}

func (a *archive) read(name string, limit int64) ([]byte, error) {
	rc, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	if size > limit {
		return nil, errorf(KindInvalid, "file %q of the archive has %d bytes; %d are allowed", name, size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(b)) != size {
		err = errorf(KindCorrupt, "the archive is cut off")
	}
	return b, err
}

func (a *archive) layer(name, digest string) (layerSource, error) {
	m, err := a.resolve(name)
	if err != nil {
		return layerSource{}, err
	}
	return layerSource{digest: digest, size: m.size, attempts: 1, open: func(context.Context) (io.ReadCloser, error) {
		rc, _, err := a.open(name)
		return rc, err
	}}, nil
}

// images returns what the archive holds for a platform. Recent versions of Docker write both forms into one archive; the OCI layout
// says more, but only the other one has all names.
func (a *archive) images(p platform) ([]source, error) {
	_, docker := a.files["manifest.json"]
	_, oci := a.files["index.json"]
	var out []source
	var err error
	switch {
	case docker:
		out, err = a.dockerImages()
	case oci:
		out, err = a.layoutImages(p)
	default:
		return nil, errorf(KindInvalid, "neither a docker archive nor an OCI layout: the archive has no manifest.json and no index.json")
	}
	if err == nil && len(out) == 0 {
		err = errorf(KindNotFound, "the archive has no image for platform %s", p)
	}
	return out, err
}

// dockerImages reads manifest.json (Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format").
func (a *archive) dockerImages() ([]source, error) {
	b, err := a.read("manifest.json", maxManifestBytes)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, errorf(KindCorrupt, "manifest.json: %w", err)
	}
	if len(list) > maxArchiveImages {
		return nil, errorf(KindInvalid, "the archive has more than %d images", maxArchiveImages)
	}
	var out []source
	for _, m := range list {
		if len(m.Layers) > maxLayers {
			return nil, errorf(KindInvalid, "an image has %d layers; %d can be mounted", len(m.Layers), maxLayers)
		}
		src := source{}
		if src.config, err = a.read(m.Config, maxConfigBytes); err != nil {
			return nil, fmt.Errorf("manifest.json: config: %w", err)
		}
		src.ref = digestOf(src.config)
		for _, t := range m.RepoTags {
			ref, err := ParseReference(t)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			src.names.tags = append(src.names.tags, ref.Name()+":"+ref.Tag)
		}
		if len(src.names.tags) > 0 {
			src.ref = src.names.tags[0]
		}
		for _, l := range m.Layers {
			layer, err := a.layer(l, l)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: layer: %w", err)
			}
			src.layers = append(src.layers, layer)
		}
		out = append(out, src)
	}
	return out, nil
}

// layoutImages reads index.json (OCI image layout specification).
func (a *archive) layoutImages(p platform) ([]source, error) {
	b, err := a.read("index.json", maxManifestBytes)
	if err != nil {
		return nil, err
	}
	var x v1.IndexManifest
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, errorf(KindCorrupt, "index.json: %w", err)
	}
	if len(x.Manifests) > maxArchiveImages {
		return nil, errorf(KindInvalid, "the archive has more than %d images", maxArchiveImages)
	}
	var out []source
	for _, d := range p.choose(x.Manifests) {
		src := source{ref: d.Digest.String()}
		name := d.Annotations[annotationName]
		if n := d.Annotations[annotationRefName]; name == "" && strings.ContainsAny(n, ":/") {
			name = n // otherwise it is a tag only, of a repository that isn't named
		}
		if name != "" {
			ref, err := ParseReference(name)
			if err != nil {
				return nil, fmt.Errorf("index.json: %w", err)
			}
			src.ref = ref.String()
			if ref.Tag != "" {
				src.names.tags = []string{ref.Name() + ":" + ref.Tag}
			}
			src.names.digests = []string{ref.Name() + "@" + d.Digest.String()}
		}
		ok, err := a.layoutImage(&src, d, p, maxIndexDepth)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, src)
		}
	}
	return out, nil
}

// layoutImage follows a descriptor to an image for the platform, if there is one.
func (a *archive) layoutImage(src *source, d v1.Descriptor, p platform, depth int) (bool, error) {
	if depth == 0 {
		return false, errorf(KindInvalid, "indexes are nested too deep")
	}
	b, err := a.blob(d, maxManifestBytes)
	if err != nil {
		return false, err
	}
	if d.MediaType.IsIndex() {
		var x v1.IndexManifest
		if err := json.Unmarshal(b, &x); err != nil {
			return false, errorf(KindCorrupt, "index %s: %w", d.Digest, err)
		}
		for _, child := range p.choose(x.Manifests) {
			if _, there := a.files[blobName(child)]; !there {
				continue // an archive of one platform keeps the index of all
			}
			if ok, err := a.layoutImage(src, child, p, depth-1); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return false, errorf(KindCorrupt, "manifest %s: %w", d.Digest, err)
	}
	if !m.Config.MediaType.IsConfig() {
		return false, nil // an artifact, not an image
	}
	if len(m.Layers) > maxLayers {
		return false, errorf(KindInvalid, "an image has %d layers; %d can be mounted", len(m.Layers), maxLayers)
	}
	src.manifest = b
	if src.config, err = a.blob(m.Config, maxConfigBytes); err != nil {
		return false, err
	}
	var c v1.ConfigFile
	if json.Unmarshal(src.config, &c) == nil && !p.matches(c.OS, c.Architecture, c.Variant) {
		return false, nil
	}
	src.layers = nil
	for _, l := range m.Layers {
		layer, err := a.layer(blobName(l), l.Digest.String())
		if err != nil {
			return false, err
		}
		src.layers = append(src.layers, layer)
	}
	return true, nil
}

func blobName(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }

// blob reads a described file and verifies its digest. Layers are verified by their diff id instead, which the config, verified here, has.
func (a *archive) blob(d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Digest.Algorithm != "sha256" {
		return nil, errorf(KindInvalid, "digests by %s are not supported", d.Digest.Algorithm)
	}
	b, err := a.read(blobName(d), limit)
	if err != nil {
		return nil, err
	}
	if got := digestOf(b); got != d.Digest.String() {
		return nil, errorf(KindCorrupt, "blob %s has digest %s", d.Digest, got)
	}
	return b, nil
}
