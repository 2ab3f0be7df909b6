package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Store is an image store. All methods may be called concurrently.
type Store struct {
	root       string
	platform   platform
	limits     Limits
	registries *registries
	log        *slog.Logger
	lock       *os.File

	// background is what the store itself does: pulls, and the removal of directories. Close ends and awaits it.
	ctx        context.Context
	cancel     context.CancelFunc
	background sync.WaitGroup

	mu         sync.Mutex // guards what follows
	index      *index
	containers map[string]*container
	pins       map[string]int       // layers that a running pull or import relies on
	pulls      map[string]*pull     // running pulls
	fetching   map[string]chan bool // diff ids that are being unpacked; closed when that is over
	trash      int64                // number of the last directory that was put away for removal
	closed     bool
}

// container is a writable snapshot.
type container struct {
	imageID string
	dirs    []string // of its layers, topmost first
}

// Open opens the store below cfg.Root, or makes it, and removes the remains of a process that ended before it was done. A store
// that another process has open is a KindConflict error.
func Open(cfg Config) (*Store, error) {
	p, err := parsePlatform(cfg.Platform)
	if err != nil {
		return nil, err
	}
	reg, err := newRegistries(cfg.Registries)
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	for _, d := range []string{"", "tmp", "s", "c", "blobs/sha256"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, errorf(KindConflict, "image store: %s is in use by another process", root)
	}
	s := &Store{
		root: root, platform: p, registries: reg, log: cfg.Log, lock: lock,
		limits:     defaultLimits(cfg.Limits),
		containers: map[string]*container{}, pins: map[string]int{}, pulls: map[string]*pull{}, fetching: map[string]chan bool{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func defaultLimits(l Limits) Limits {
	if l.LayerBytes == 0 {
		l.LayerBytes = 64 << 30
	}
	if l.LayerEntries == 0 {
		l.LayerEntries = 4_000_000
	}
	if l.ArchiveBytes == 0 {
		l.ArchiveBytes = 256 << 30
	}
	if l.ParallelLayers <= 0 {
		l.ParallelLayers = 3
	}
	return l
}

func (s *Store) load() error {
	var err error
	if s.index, err = readIndex(s.path("index.json")); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path("c"))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		// A container without its link was being made or removed.
		if target, err := os.Readlink(s.path("c", e.Name(), "i")); err == nil {
			id, dirs, _ := strings.Cut(target, " ")
			s.containers[e.Name()] = &container{imageID: id, dirs: strings.Split(dirs, ":")}
		}
	}
	return s.clearLeftovers()
}

// Close ends running pulls, waits for them and gives the store free.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.background.Wait()
	s.registries.close()
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}

// Get returns the image with an ID ("sha256:..." or at least its first 6 digits, if no other has them) or a name.
func (s *Store) Get(refOrID string) (Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, _ := s.find(refOrID); i != nil {
		return i.image(), true
	}
	return Image{}, false
}

// minPrefix is how much of an ID must be given for it to be taken for one.
const minPrefix = 6

// find returns the image that refOrID names, and the name that matched, or "" if it was an ID. s.mu must be held.
func (s *Store) find(refOrID string) (*imageRecord, string) {
	if i := s.index.Images[refOrID]; i != nil {
		return i, ""
	}
	if ref, err := ParseReference(refOrID); err == nil {
		name := ref.Name() + ":" + ref.Tag
		if ref.Digest != "" {
			name = ref.Name() + "@" + ref.Digest
		}
		for _, i := range s.index.Images {
			if slices.Contains(i.Tags, name) || slices.Contains(i.Digests, name) {
				return i, name
			}
		}
	}
	hex := strings.TrimPrefix(refOrID, "sha256:")
	if len(hex) < minPrefix || len(hex) > 64 || !isHex(hex, len(hex)) {
		return nil, ""
	}
	var found *imageRecord
	for id, i := range s.index.Images {
		if strings.HasPrefix(id, "sha256:"+hex) {
			if found != nil {
				return nil, ""
			}
			found = i
		}
	}
	return found, ""
}

func (i *imageRecord) image() Image {
	c := i.Config
	c.Env, c.Entrypoint, c.Cmd = slices.Clone(c.Env), slices.Clone(c.Entrypoint), slices.Clone(c.Cmd)
	return Image{
		ID: i.ID, RepoTags: slices.Clone(i.Tags), RepoDigests: slices.Clone(i.Digests), Size: i.Size,
		Config: c, Created: i.Created, Pulled: i.Pulled, Platform: i.Platform,
	}
}

// List returns all images, sorted by ID.
func (s *Store) List() []Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Image, 0, len(s.index.Images))
	for _, i := range s.index.Images {
		out = append(out, i.image())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Remove takes a name from an image, or removes the image if the name was its last or refOrID is its ID. To remove what isn't
// there is no error. Containers that run from the image keep its layers.
func (s *Store) Remove(ctx context.Context, refOrID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	i, name := s.find(refOrID)
	if i == nil {
		return nil
	}
	if name != "" {
		tags, digests := i.Tags, i.Digests
		if strings.Contains(name, "@") {
			i.Digests = without(digests, name)
		} else {
			i.Tags = without(tags, name)
			// The digests of a repository stay for as long as a tag of it does, or there is no tag at all.
			repo := repoOf(name)
			if !slices.ContainsFunc(i.Tags, func(t string) bool { return repoOf(t) == repo }) {
				i.Digests = slices.DeleteFunc(slices.Clone(digests), func(d string) bool { return strings.HasPrefix(d, repo+"@") })
			}
		}
		if len(i.Tags) > 0 || len(i.Digests) > 0 {
			if err := s.save(); err != nil {
				i.Tags, i.Digests = tags, digests
				return err
			}
			return nil
		}
	}
	return s.delete(i)
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// repoOf is "docker.io/library/nginx" for "docker.io/library/nginx:latest".
func repoOf(tag string) string { return tag[:strings.LastIndexByte(tag, ':')] }

// delete removes images and the layers and blobs that nothing else needs. s.mu must be held.
func (s *Store) delete(images ...*imageRecord) error {
	for _, i := range images {
		delete(s.index.Images, i.ID)
	}
	gone := s.dropUnused()
	if err := s.save(); err != nil {
		for _, i := range images {
			s.index.Images[i.ID] = i
		}
		for key, l := range gone {
			s.index.Layers[key] = l
		}
		return err
	}
	s.discardLayers(gone)
	blobs := map[string]bool{}
	for _, i := range s.index.Images {
		for _, b := range i.Blobs {
			blobs[b] = true
		}
	}
	for _, i := range images {
		for _, b := range i.Blobs {
			if !blobs[b] {
				if err := os.Remove(s.blobPath(b)); err != nil && !errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("image store: remove blob: %w", err)
				}
			}
		}
	}
	return nil
}

// dropUnused takes the layers that nobody needs out of the index and returns them. s.mu must be held.
func (s *Store) dropUnused() map[string]*layerRecord {
	used := s.layersInUse()
	gone := map[string]*layerRecord{}
	for key, l := range s.index.Layers {
		if !used[key] {
			gone[key] = l
			delete(s.index.Layers, key)
		}
	}
	return gone
}

func (s *Store) discardLayers(gone map[string]*layerRecord) {
	for _, l := range gone {
		s.discard(s.path("s", l.Dir))
	}
}

// discard puts a directory away and removes it in the background; a crash leaves it to the next Open. s.mu must be held.
func (s *Store) discard(dir string) {
	s.trash++
	away := s.path("tmp", "trash-"+strconv.FormatInt(s.trash, 36))
	if err := os.Rename(dir, away); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Error("image store: put directory away", "dir", dir, "err", err)
		}
		return
	}
	s.removeLater(away)
}

func (s *Store) removeLater(dir string) {
	s.background.Go(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.log.Error("image store: remove directory", "dir", dir, "err", err)
		}
	})
}

// Prune removes the images that inUse doesn't claim and no container was prepared from, and layers that were fetched for a pull
// that didn't succeed. It returns the images that it removed.
func (s *Store) Prune(inUse func(id string) bool) ([]Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, c := range s.containers {
		used[c.imageID] = true
	}
	var records []*imageRecord
	var out []Image
	for id, i := range s.index.Images {
		if !used[id] && (inUse == nil || !inUse(id)) {
			records = append(records, i)
			out = append(out, i.image())
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	if err := s.delete(records...); err != nil {
		return nil, err
	}
	return out, nil
}

// FSInfo says what the images take and what their file system has left.
func (s *Store) FSInfo() (FSInfo, error) {
	info := FSInfo{Root: s.root}
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return info, fmt.Errorf("image store: %w", err)
	}
	info.CapacityBytes, info.AvailableBytes = st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	info.CapacityInodes, info.FreeInodes = st.Files, st.Ffree
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.index.Layers {
		info.UsedBytes += uint64(l.Bytes)
		info.UsedInodes += uint64(l.Entries)
	}
	return info, nil
}

// Prepare makes a writable snapshot of an image for a container, or returns the one that it has.
func (s *Store) Prepare(ctx context.Context, imageID, containerID string) (Rootfs, error) {
	if containerID == "" || containerID != filepath.Base(containerID) || containerID[0] == '.' {
		return Rootfs{}, errorf(KindInvalid, "%q can't be the id of a container", containerID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return Rootfs{}, err
	}
	if c := s.containers[containerID]; c != nil {
		return s.rootfs(containerID, c), nil
	}
	i, _ := s.find(imageID)
	if i == nil {
		return Rootfs{}, errorf(KindNotFound, "image %q not found", imageID)
	}
	c := &container{imageID: i.ID}
	root := attributes{Mode: 0o755}
	described := false
	for _, key := range slices.Backward(i.Layers) {
		l := s.index.Layers[key]
		c.dirs = append(c.dirs, l.Dir)
		if l.Root != nil && !described {
			root, described = *l.Root, true
		}
		if l.OpaqueRoot {
			break
		}
	}
	if err := s.makeContainer(containerID, c, root); err != nil {
		return Rootfs{}, errors.Join(fmt.Errorf("prepare root file system: %w", layerError(err)), os.RemoveAll(s.path("c", containerID)))
	}
	s.containers[containerID] = c
	return s.rootfs(containerID, c), nil
}

func (s *Store) makeContainer(id string, c *container, root attributes) error {
	dir := s.path("c", id)
	// What a crash left is older than the container.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Join(dir, "u"), filepath.Join(dir, "w")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	// What shows at "/" are the attributes of the upper directory.
	upper := filepath.Join(dir, "u")
	if root.UID != 0 || root.GID != 0 {
		if err := os.Chown(upper, int(root.UID), int(root.GID)); err != nil {
			return err
		}
	}
	if err := unix.Chmod(upper, root.Mode); err != nil {
		return err
	}
	// The link comes last: a directory without it is a leftover.
	return os.Symlink(c.imageID+" "+strings.Join(c.dirs, ":"), filepath.Join(dir, "i"))
}

func (s *Store) rootfs(id string, c *container) Rootfs {
	r := Rootfs{Upper: s.path("c", id, "u"), Work: s.path("c", id, "w")}
	for _, d := range c.dirs {
		r.Lower = append(r.Lower, s.path("s", d))
	}
	return r
}

// Release removes a container's snapshot, which must not be mounted any more. The files are removed in the background.
// To release what isn't there is no error.
func (s *Store) Release(containerID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[containerID]
	if c == nil {
		return nil
	}
	if err := s.usable(); err != nil {
		return err
	}
	s.trash++
	away := s.path("tmp", "trash-"+strconv.FormatInt(s.trash, 36))
	if err := os.Rename(s.path("c", containerID), away); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release root file system: %w", err)
	}
	delete(s.containers, containerID)
	s.removeLater(away)
	if s.index.Images[c.imageID] != nil {
		return nil
	}
	// The image was removed before; the container was the last to need its layers.
	gone := s.dropUnused()
	if len(gone) == 0 {
		return nil
	}
	if err := s.save(); err != nil {
		for key, l := range gone {
			s.index.Layers[key] = l
		}
		return err
	}
	s.discardLayers(gone)
	return nil
}

// Containers returns the ids of all snapshots, sorted, so that an owner can release those it doesn't know.
func (s *Store) Containers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.containers))
	for id := range s.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// usable says whether the store is open. s.mu must be held.
func (s *Store) usable() error {
	if s.closed {
		return errorf(KindUnavailable, "the image store is closed")
	}
	return nil
}
