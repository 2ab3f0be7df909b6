package imagegc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"
)

// store is an image service and a runtime. Each image takes its size of the disk.
type store struct {
	images   []*runtimeapi.Image
	inUse    []string
	capacity int64
	other    int64 // bytes that aren't images'
	fail     string
	events   []string
}

func (s *store) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return slices.Clone(s.images), nil
}

func (s *store) RemoveImage(_ context.Context, i *runtimeapi.ImageSpec) error {
	if i.Image == s.fail {
		return errors.New("it is stuck")
	}
	s.images = slices.DeleteFunc(s.images, func(o *runtimeapi.Image) bool { return o.Id == i.Image })
	return nil
}

func (s *store) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/images"}}}}, nil
}

func (s *store) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	var out []*runtimeapi.Container
	for _, id := range s.inUse {
		out = append(out, &runtimeapi.Container{Id: "c-" + id, ImageId: id})
	}
	return out, nil
}

func (s *store) space(dir string) (int64, int64, error) {
	if dir != "/images" {
		return 0, 0, errors.New("another directory: " + dir)
	}
	used := s.other
	for _, i := range s.images {
		used += int64(i.Size)
	}
	return s.capacity, s.capacity - used, nil
}

func (s *store) ids() string {
	var out []string
	for _, i := range s.images {
		out = append(out, i.Id)
	}
	return strings.Join(out, " ")
}

func (s *store) collector() *Collector {
	return New(Config{
		Images: s, Containers: s, HighPercent: DefaultHighPercent, LowPercent: DefaultLowPercent, MinAge: DefaultMinAge, Space: s.space,
		Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
		Event: func(_, reason, message string) { s.events = append(s.events, reason+": "+message) },
	})
}

func (s *store) add(id string, size uint64) {
	s.images = append(s.images, &runtimeapi.Image{Id: id, Size: size})
}

func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{capacity: 1000, other: 500}
		c := s.collector()
		collect := func() error {
			t.Helper()
			return c.Collect(t.Context())
		}
		s.add("a", 100)
		s.add("b", 100)
		s.inUse = []string{"a", "b"}
		if err := collect(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.inUse = []string{"b"} // a was used before b
		s.add("used", 100)
		s.inUse = append(s.inUse, "used")
		if err := collect(); err != nil || s.ids() != "a b used" {
			t.Fatalf("at 80 %%: %s, %v", s.ids(), err)
		}
		time.Sleep(2 * time.Minute)
		s.inUse = []string{"used"}
		s.add("new", 60) // 86 %: 60 too many
		if err := collect(); err != nil || s.ids() != "b used new" {
			t.Fatalf("at 86 %%: %s, %v", s.ids(), err)
		}
		s.other += 150 // 91 %: 110 too many, of which 100 can be had
		err := collect()
		want := "Failed to garbage collect required amount of images. Attempted to free 110 bytes, but only found 100 bytes eligible to free."
		if err == nil || err.Error() != want || s.ids() != "used new" {
			t.Errorf("%s, %v", s.ids(), err)
		}
		if len(s.events) != 1 || s.events[0] != "FreeDiskSpaceFailed: "+want {
			t.Errorf("events %q", s.events)
		}
		time.Sleep(2 * time.Minute)
		s.inUse = nil
		if freed, err := c.DeleteUnused(t.Context()); err != nil || freed != 160 || s.ids() != "" {
			t.Errorf("freed %d, left %s, %v", freed, s.ids(), err)
		}
	})
}

func TestFailuresAndPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{capacity: 1000, other: 700, fail: "a"}
		s.add("a", 100)
		s.add("b", 100)
		s.images = append(s.images, &runtimeapi.Image{Id: "pinned", Size: 100, Pinned: true})
		c := s.collector()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Run(ctx)
		}()
		time.Sleep(3*Period + time.Second)
		cancel()
		<-done
		if s.ids() != "a pinned" {
			t.Errorf("left: %s", s.ids())
		}
		failed := slices.ContainsFunc(s.events, func(e string) bool {
			return strings.HasPrefix(e, "ImageGCFailed: ") && strings.Contains(e, "it is stuck")
		})
		if !failed {
			t.Errorf("events %q", s.events)
		}
		s.capacity = 0
		if err := c.Collect(t.Context()); err == nil || err.Error() != "invalid capacity 0 on image filesystem" {
			t.Error(err)
		}
	})
}

// TestProperties: whatever there is, what is used, new or pinned stays, and no more goes than has to.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &store{capacity: 1000, other: int64(rapid.IntRange(0, 900).Draw(rt, "other"))}
		c := s.collector()
		kept := map[string]bool{}
		var biggest int64
		for i := range rapid.IntRange(0, 8).Draw(rt, "images") {
			id := fmt.Sprint("i", i)
			size := rapid.IntRange(1, 200).Draw(rt, "size")
			biggest = max(biggest, int64(size))
			s.add(id, uint64(size))
			switch rapid.IntRange(0, 2).Draw(rt, "state") {
			case 0:
				s.inUse = append(s.inUse, id)
				kept[id] = true
			case 1:
				s.images[i].Pinned, kept[id] = true, true
			}
		}
		start := time.Unix(1e9, 0)
		c.Clock = fixed{clock.RealClock{}, start}
		if err := c.detect(rt.Context(), start); err != nil {
			rt.Fatal(err)
		}
		c.Clock = fixed{clock.RealClock{}, start.Add(DefaultMinAge)}
		_, before, _ := s.space("/images")
		err := c.Collect(rt.Context())
		_, after, _ := s.space("/images")
		for id := range kept {
			if !strings.Contains(" "+s.ids()+" ", " "+id+" ") {
				rt.Fatalf("%s is gone", id)
			}
		}
		full := before < 160 // the share in use is rounded up
		switch {
		case !full && after != before:
			rt.Fatalf("%d bytes were free, %d are: without need", before, after)
		case full && err == nil && (after < 200 || before < 200 && after-biggest >= 200):
			rt.Fatalf("%d bytes were free, %d are", before, after)
		case full && err != nil && len(s.images) != len(kept):
			rt.Fatalf("it gave up with %s left: %v", s.ids(), err)
		}
	})
}

// fixed is a clock that stands still.
type fixed struct {
	clock.Clock
	now time.Time
}

func (f fixed) Now() time.Time { return f.now }

func TestFileSystem(t *testing.T) {
	capacity, available, err := FileSystem(t.TempDir())
	if err != nil || capacity <= 0 || available > capacity {
		t.Errorf("%d of %d, %v", available, capacity, err)
	}
	if _, _, err := FileSystem("/does/not/exist"); err == nil {
		t.Error("measured what isn't there")
	}
}
