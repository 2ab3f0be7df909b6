package live_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/store"
)

type collection struct {
	mu      sync.Mutex
	items   []*store.Item
	changed int64
	lists   int
	err     error
}

func (c *collection) Changed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *collection) List(context.Context, store.ListOptions) (store.List, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	return store.List{Items: c.items}, c.err
}

func (c *collection) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed++
	c.items = append(c.items, &store.Item{Key: key})
}

func TestView(t *testing.T) {
	a, b := &collection{}, &collection{}
	derived := 0
	v := live.New(func(old int, lists [][]*store.Item) int {
		derived++
		return 100*derived + len(lists[0]) + 10*len(lists[1])
	}, a, b)
	for i, want := range []int{100, 100, 201, 311, 311} {
		switch i {
		case 2:
			a.add("x")
		case 3:
			b.add("y")
		}
		if got, err := v.Get(t.Context()); err != nil || got != want {
			t.Errorf("%d: got %d, %v, want %d", i, got, err, want)
		}
	}
	if derived != 3 || a.lists != 3 {
		t.Errorf("derived %d times from %d lists", derived, a.lists)
	}
	a.add("z")
	a.err = errors.New("broken")
	if _, err := v.Get(t.Context()); err == nil {
		t.Error("no error of a broken collection")
	}
	a.err = nil
	if got, err := v.Get(t.Context()); err != nil || got != 412 {
		t.Errorf("got %d, %v", got, err)
	}
}

// TestManyReaders never see less than what was written before they asked.
func TestManyReaders(t *testing.T) {
	c := &collection{}
	v := live.New(func(_ int, lists [][]*store.Item) int { return len(lists[0]) }, c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				c.add("x")
				least := int(c.Changed())
				if got, err := v.Get(t.Context()); err != nil || got < least {
					t.Errorf("got %d after %d writes, %v", got, least, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
