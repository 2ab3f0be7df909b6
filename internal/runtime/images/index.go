package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/atomicfile"
)

// indexVersion is the form of index.json. A store of a later form is refused rather than misread.
const indexVersion = 1

// index is what the store holds.
type index struct {
	Version int `json:"version"`
	// Next is the number that the next layer's directory gets; numbers aren't used again, so that a directory that is still being
	// removed is never mistaken for a new one.
	Next   int64                   `json:"next"`
	Images map[string]*imageRecord `json:"images"` // by ID
	Layers map[string]*layerRecord `json:"layers"` // by key: the diff id, or "chain:" and the chain id
}

type imageRecord struct {
	ID       string      `json:"id"`
	Tags     []string    `json:"tags,omitempty"`
	Digests  []string    `json:"digests,omitempty"`
	Layers   []string    `json:"layers"` // keys, bottom first
	Size     int64       `json:"size"`
	Config   ImageConfig `json:"config"`
	Created  time.Time   `json:"created,omitzero"`
	Pulled   time.Time   `json:"pulled"`
	Platform string      `json:"platform"`
	// Blobs are the digests of the manifest, if there was one, and the config.
	Blobs []string `json:"blobs"`
}

type layerRecord struct {
	Dir string `json:"dir"` // below s/
	// Bytes and Entries estimate what the layer takes on the disk.
	Bytes   int64 `json:"bytes"`
	Entries int64 `json:"entries"`
	// Root are the attributes of the root directory, if the layer describes it.
	Root *attributes `json:"root,omitempty"`
	// OpaqueRoot says that nothing below this layer shows.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// readIndex reads index.json; a store that has none is empty.
func readIndex(path string) (*index, error) {
	x := &index{Version: indexVersion}
	b, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(b, x); err != nil {
			return nil, errorf(KindCorrupt, "image store: %s: %w", path, err)
		}
		if x.Version != indexVersion {
			return nil, errorf(KindInvalid, "image store: %s has version %d, this program knows version %d", path, x.Version, indexVersion)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if x.Images == nil {
		x.Images = map[string]*imageRecord{}
	}
	if x.Layers == nil {
		x.Layers = map[string]*layerRecord{}
	}
	return x, nil
}

// save makes the index the truth. s.mu must be held.
func (s *Store) save() error {
	b, err := json.Marshal(s.index)
	if err != nil {
		return fmt.Errorf("image store: encode index: %w", err)
	}
	if err := atomicfile.Write(s.path("index.json"), b, 0o600, atomicfile.Durable); err != nil {
		return fmt.Errorf("image store: write index: %w", layerError(err))
	}
	return nil
}

// syncFS brings unpacked layers to the disk, before an image that has them is recorded: an index that survives a power failure must not name
// files that don't. It takes as long as the disk takes, so s.mu must not be held.
func (s *Store) syncFS() error {
	d, err := os.Open(s.root)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("image store: sync: %w", err)
	}
	return nil
}

// putBlob keeps a manifest or a config.
func (s *Store) putBlob(digest string, b []byte) error {
	path := s.blobPath(digest)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := atomicfile.Write(path, b, 0o600, atomicfile.Durable); err != nil {
		return fmt.Errorf("image store: write blob: %w", layerError(err))
	}
	return nil
}

func (s *Store) blobPath(digest string) string {
	return s.path("blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// clearLeftovers removes what the index doesn't name: the remains of a process that ended before it was done.
func (s *Store) clearLeftovers() error {
	used := s.layersInUse()
	changed := false
	for key := range s.index.Layers {
		if !used[key] {
			delete(s.index.Layers, key)
			changed = true
		}
	}
	if changed {
		if err := s.save(); err != nil {
			return err
		}
	}
	dirs := map[string]bool{}
	for _, l := range s.index.Layers {
		dirs[l.Dir] = true
		// Numbers go on after the highest, also if the last save of the index was lost.
		if n, err := strconv.ParseInt(l.Dir, 36, 64); err == nil && n >= s.index.Next {
			s.index.Next = n + 1
		}
	}
	blobs := map[string]bool{}
	for _, i := range s.index.Images {
		for _, b := range i.Blobs {
			blobs[filepath.Base(s.blobPath(b))] = true
		}
	}
	for _, d := range []struct {
		dir  string
		keep func(name string) bool
	}{
		{s.path(), func(name string) bool { return !atomicfile.Leftover(name) }},
		{s.path("tmp"), func(string) bool { return false }},
		{s.path("s"), func(name string) bool { return dirs[name] }},
		{s.path("blobs", "sha256"), func(name string) bool { return blobs[name] }},
		{s.path("c"), func(name string) bool { return s.containers[name] != nil }},
	} {
		entries, err := os.ReadDir(d.dir)
		if err != nil {
			return fmt.Errorf("image store: %w", err)
		}
		for _, e := range entries {
			if d.keep(e.Name()) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(d.dir, e.Name())); err != nil {
				return fmt.Errorf("image store: remove leftover: %w", err)
			}
		}
	}
	return nil
}

// layersInUse are the keys of the layers that an image, a container or a running pull needs. s.mu must be held.
func (s *Store) layersInUse() map[string]bool {
	used := map[string]bool{}
	for _, i := range s.index.Images {
		for _, l := range i.Layers {
			used[l] = true
		}
	}
	for key := range s.pins {
		used[key] = true
	}
	dirs := map[string]bool{}
	for _, c := range s.containers {
		for _, d := range c.dirs {
			dirs[d] = true
		}
	}
	for key, l := range s.index.Layers {
		if dirs[l.Dir] {
			used[key] = true
		}
	}
	return used
}
