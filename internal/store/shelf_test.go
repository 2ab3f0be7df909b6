package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestShelfKeepsTheNewest(t *testing.T) {
	now := time.Unix(0, 0)
	s := newShelf(func() time.Time { return now })
	s.limit = 100
	items := make([]*Item, 30)
	for i := range items {
		items[i] = s.item(&corev1.ConfigMap{}, fmt.Sprint("n/", i), int64(i+1), 0, 0)
		for _, media := range []string{"a", "b"} {
			if data, err := items[i].Encoded(Form{MediaType: media}, func(Object) ([]byte, error) { return make([]byte, 5), nil }); err != nil || len(data) != 5 {
				t.Fatal(data, err)
			}
		}
	}
	kept := 0
	for i, it := range items {
		_, a := it.Cached(Form{MediaType: "a"})
		if _, b := it.Cached(Form{MediaType: "b"}); a != b {
			t.Errorf("item %d has one of two", i)
		}
		if a {
			kept++
		} else if i >= 20 {
			t.Errorf("item %d, one of the newest, is gone", i)
		}
	}
	if kept != 10 || s.bytes != 100 {
		t.Errorf("%d items of %d bytes", kept, s.bytes)
	}
	// What is gone is made again.
	made := 0
	for range 2 {
		if _, err := items[0].Encoded(Form{MediaType: "a"}, func(Object) ([]byte, error) { made++; return []byte("again"), nil }); err != nil {
			t.Fatal(err)
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	now = now.Add(time.Hour)
	if _, err := items[1].Encoded(Form{MediaType: "a"}, func(Object) ([]byte, error) { return []byte("young"), nil }); err != nil {
		t.Fatal(err)
	}
	s.trim(now)
	if _, ok := items[1].Cached(Form{MediaType: "a"}); !ok || s.bytes != len("young") || len(s.queue) != 1 {
		t.Errorf("%d bytes of %d items are left", s.bytes, len(s.queue))
	}
}

func TestShelfAtOnce(t *testing.T) {
	s := newShelf(time.Now)
	s.limit = 64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				it := s.item(&corev1.ConfigMap{}, fmt.Sprint("n/", i), int64(g*200+i), 0, 0)
				if data, err := it.Encoded(Form{}, func(Object) ([]byte, error) { return []byte("12345678"), nil }); err != nil || len(data) != 8 {
					t.Error(data, err)
				}
			}
		})
	}
	wg.Wait()
	if s.bytes > s.limit || len(s.queue)-s.first != s.bytes/8 {
		t.Errorf("%d bytes, %d of %d", s.bytes, s.first, len(s.queue))
	}
}

// The last state of what is deleted shares all with the state before but the version.
func TestLastStateSharesTheOneBefore(t *testing.T) {
	s := newShelf(time.Now)
	cm := &corev1.ConfigMap{Data: map[string]string{"k": "v"}}
	cm.Namespace, cm.Name = "n", "a"
	it := s.item(cm, "n/a", 7, 0, 0)
	last := it.at(9)
	got, ok := last.Object.(*corev1.ConfigMap)
	if !ok || got == cm || got.ResourceVersion != "9" || cm.ResourceVersion != "7" || last.Revision != 9 || it.Revision != 7 {
		t.Fatalf("%v of %v", last.Object, it.Object)
	}
	if got.Name != "a" || got.Namespace != "n" || got.Data["k"] != "v" {
		t.Errorf("%v", got)
	}
}
