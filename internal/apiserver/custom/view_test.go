package custom

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/celox/celox/internal/store"
)

// unstored is a version that objects are not stored in.
func unstored(d *Definition) *Version {
	for _, v := range d.versions {
		if v != d.Storage() {
			return v
		}
	}
	return nil
}

// TestConvertedOnce: however many ask for the same objects at the same time, and in whatever portions, the webhook converts each once.
func TestConvertedOnce(t *testing.T) {
	d, calls := converting(t, func(m map[string]any) { m["spec"] = map[string]any{"b": "converted"} })
	v, storage := unstored(d), d.Storage()
	item := func(name string) *store.Item {
		o := object(t, storage, `{"metadata":{"name":"`+name+`","namespace":"n"},"spec":{"a":"x"}}`)
		return &store.Item{Object: o, Key: "n/" + name, Revision: 1}
	}
	items := []*store.Item{item("a"), item("b"), item("c"), item("d")}
	view := v.View(nil)
	var askers sync.WaitGroup
	for i := range 40 {
		askers.Go(func() {
			part := items[i%3 : i%3+2]
			got, err := view.all(context.Background(), part)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range got {
				if again, err := view.one(context.Background(), part[j]); err != nil || again != got[j] || got[j].Key != part[j].Key {
					t.Errorf("%v: another item, %v", part[j].Key, err)
				}
			}
		})
	}
	askers.Wait()
	if n := calls.Load(); n < 1 || n > 4 {
		t.Errorf("%d calls for four objects", n)
	}
	if len(view.converting) != 0 {
		t.Errorf("%d conversions are left", len(view.converting))
	}
}

// TestConversionGivenUp: who goes away while converting does not spoil it for others.
func TestConversionGivenUp(t *testing.T) {
	reached, release := make(chan struct{}, 2), make(chan struct{})
	d, _ := converting(t, func(m map[string]any) {
		m["spec"] = map[string]any{"b": "converted"}
		reached <- struct{}{}
		<-release
	})
	v := unstored(d)
	item := &store.Item{Object: object(t, d.Storage(), `{"metadata":{"name":"a","namespace":"n"}}`), Key: "n/a", Revision: 1}
	view := v.View(nil)
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := view.one(ctx, item); first <- err }()
	<-reached
	go func() { _, err := view.one(context.Background(), item); second <- err }()
	cancel()
	if err := <-first; err == nil {
		t.Error("the first was not told that it gave up")
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("the second is told %v", err)
	}
}

// TestConversionFailsForAll: those who wait for a conversion that fails are told so, without another try each.
func TestConversionFailsForAll(t *testing.T) {
	d, calls := converting(t, func(m map[string]any) { m["metadata"] = map[string]any{"name": "another"} })
	v := unstored(d)
	item := &store.Item{Object: object(t, d.Storage(), `{"metadata":{"name":"a","namespace":"n"}}`), Key: "n/a", Revision: 1}
	if _, err := v.View(nil).one(context.Background(), item); err == nil || !strings.Contains(err.Error(), "must have the same name") {
		t.Errorf("got %v", err)
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
}

// TestRehearse: what a dry run shows of an object has been to the storage version and back, or says why it can't be stored.
func TestRehearse(t *testing.T) {
	refuse := false
	d, calls := converting(t, func(m map[string]any) {
		if refuse {
			m["metadata"].(map[string]any)["name"] = "another"
		}
		m["metadata"].(map[string]any)["labels"] = map[string]any{"by": "webhook"}
	})
	v := unstored(d)
	o := object(t, v, `{"metadata":{"name":"a","namespace":"n"},"spec":{"both":"x"}}`)
	seen, err := v.View(nil).Rehearse(t.Context(), o)
	if err != nil || seen.APIVersion != o.APIVersion || seen.Labels["by"] != "webhook" || len(o.Labels) != 0 || calls.Load() != 2 {
		t.Errorf("%+v after %d calls, %v", seen, calls.Load(), err)
	}
	same := object(t, d.Storage(), `{"metadata":{"name":"a","namespace":"n"}}`)
	if seen, err := d.Storage().View(nil).Rehearse(t.Context(), same); err != nil || seen != same || calls.Load() != 2 {
		t.Errorf("what is stored as it is was converted: %v, %d calls", err, calls.Load())
	}
	refuse = true
	if _, err := v.View(nil).Rehearse(t.Context(), o); err == nil || !strings.Contains(err.Error(), "must have the same name: a != another") {
		t.Errorf("got %v", err)
	}
}
