package imagegc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
)

// The kubelet's defaults (imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge).
const (
	DefaultHighPercent = 85
	DefaultLowPercent  = 80
	DefaultMinAge      = 2 * time.Minute
	// Period is how often the disk is looked at.
	Period = 5 * time.Minute
)

// Images is what is asked of the image service.
type Images interface {
	ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error)
	RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}

// Containers is what is asked of the runtime.
type Containers interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
}

// Config is what a Collector is given.
type Config struct {
	Images     Images
	Containers Containers
	// HighPercent of the disk in use begins a collection, LowPercent ends it; 100 for HighPercent: never. MinAge is how long an image is
	// left alone after it was seen first.
	HighPercent, LowPercent int
	MinAge                  time.Duration
	// Space measures the file system that holds a directory, in bytes; FileSystem in production.
	Space func(dir string) (capacity, available int64, err error)
	Clock clock.Clock
	Log   *slog.Logger
	// Event records an event about the node.
	Event func(eventType, reason, message string)
	// Removed is told of each image that was removed; nil tells nobody.
	Removed func(id string) error
}

// Collector collects. Its methods are safe for concurrent use.
type Collector struct {
	Config
	mu     sync.Mutex
	seen   map[string]*image // by id; guarded by mu
	failed bool              // the last collection did; guarded by mu
}

type image struct {
	id          string
	first, used time.Time
	bytes       int64
	pinned      bool
}

// New makes a Collector.
func New(c Config) *Collector { return &Collector{Config: c, seen: map[string]*image{}} }

// FileSystem measures the file system that holds a directory.
func FileSystem(dir string) (capacity, available int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}

// Run collects now and then until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	for {
		err := c.Collect(ctx)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		again := c.failed && err != nil
		c.failed = err != nil
		c.mu.Unlock()
		if err != nil {
			c.Log.Warn("image garbage collection failed", "error", err)
		}
		if again { // the first time statistics may just not be there yet
			c.Event(corev1.EventTypeWarning, "ImageGCFailed", err.Error())
		}
		t := c.Clock.NewTimer(Period)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C():
		}
	}
}

// Collect removes images if the disk is too full.
func (c *Collector) Collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Clock.Now()
	if err := c.detect(ctx, now); err != nil {
		return err
	}
	info, err := c.Images.ImageFsInfo(ctx)
	if err != nil {
		return fmt.Errorf("image file system: %w", err)
	}
	if len(info.GetImageFilesystems()) == 0 {
		return errors.New("image file system: the runtime names none")
	}
	dir := info.ImageFilesystems[0].GetFsId().GetMountpoint()
	capacity, available, err := c.Space(dir)
	if err != nil {
		return err
	}
	available = min(available, capacity)
	if capacity <= 0 {
		message := fmt.Sprintf("invalid capacity %d on image filesystem", capacity)
		c.Event(corev1.EventTypeWarning, "InvalidDiskCapacity", message)
		return errors.New(message)
	}
	percent := 100 - int(float64(available)*100/float64(capacity))
	if c.HighPercent >= 100 || percent < c.HighPercent {
		return nil
	}
	want := capacity*int64(100-c.LowPercent)/100 - available
	c.Log.Info("the disk of the images is nearly full: removing unused ones", "used percent", percent, "bytes to free", want)
	freed, err := c.free(ctx, want, now)
	if err != nil {
		return err
	}
	if freed < want {
		message := fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed)
		c.Event(corev1.EventTypeWarning, "FreeDiskSpaceFailed", message)
		return errors.New(message)
	}
	return nil
}

// DeleteUnused removes every image that isn't used, whatever the disk's state, and returns how many bytes they took.
func (c *Collector) DeleteUnused(ctx context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Clock.Now()
	if err := c.detect(ctx, now); err != nil {
		return 0, err
	}
	return c.free(ctx, math.MaxInt64, now)
}

// detect takes note of the images that there are and of those in use. The caller holds mu.
func (c *Collector) detect(ctx context.Context, now time.Time) error {
	list, err := c.Images.ListImages(ctx, nil)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Containers.ListContainers(ctx, nil)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, k := range containers {
		used[k.GetImageId()] = true
		used[k.GetImageRef()] = true // of runtimes that name images there
	}
	there := map[string]bool{}
	for _, i := range list {
		there[i.Id] = true
		s := c.seen[i.Id]
		if s == nil {
			s = &image{id: i.Id, first: now}
			c.seen[i.Id] = s
		}
		s.bytes, s.pinned = int64(i.Size), i.Pinned
		inUse := used[i.Id]
		for _, d := range i.RepoDigests {
			inUse = inUse || used[d]
		}
		if inUse {
			s.used = now
		}
	}
	for id := range c.seen {
		if !there[id] {
			delete(c.seen, id)
		}
	}
	return nil
}

// free removes images until want bytes are free or no more may go. The caller holds mu.
func (c *Collector) free(ctx context.Context, want int64, now time.Time) (int64, error) {
	candidates := make([]*image, 0, len(c.seen))
	for _, i := range c.seen {
		if i.pinned || i.used.Equal(now) || now.Sub(i.first) < c.MinAge {
			continue
		}
		candidates = append(candidates, i)
	}
	slices.SortFunc(candidates, func(a, b *image) int {
		return cmp.Or(a.used.Compare(b.used), a.first.Compare(b.first), cmp.Compare(a.id, b.id))
	})
	var freed int64
	var errs []error
	for _, i := range candidates {
		if freed >= want || ctx.Err() != nil {
			break
		}
		c.Log.Info("removing an unused image", "id", i.id, "bytes", i.bytes)
		if err := c.Images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: i.id}); err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", i.id, err))
			continue
		}
		delete(c.seen, i.id)
		freed += i.bytes
		if c.Removed != nil {
			if err := c.Removed(i.id); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) > 0 {
		return freed, fmt.Errorf("wanted to free %d bytes, but freed %d bytes space with errors in image deletion: %w", want, freed, errors.Join(errs...))
	}
	return freed, nil
}
