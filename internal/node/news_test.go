package node

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience bounds what has to happen in real time; it is no measurement.
const patience = time.Minute

// follow begins to listen to what changes in the fake API and what the fake runtime tells, until the test ends, for comes.
func (r *rig) follow() {
	r.t.Helper()
	r.news = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	r.t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	tell := func() {
		select {
		case r.news <- struct{}{}:
		default: // whoever waits has not looked since the last one
		}
	}
	for _, resource := range []string{"pods", "nodes", "events"} {
		w, err := r.client.Tracker().Watch(corev1.SchemeGroupVersion.WithResource(resource), "")
		if err != nil {
			r.t.Fatal(err)
		}
		all.Go(func() {
			<-ctx.Done()
			w.Stop()
		})
		all.Go(func() {
			for range w.ResultChan() {
				tell()
			}
		})
	}
	said := make(chan *runtimeapi.ContainerEventResponse)
	all.Go(func() { _ = r.runtime.GetContainerEvents(ctx, said, nil) }) // ends with ctx
	all.Go(func() {
		for {
			select {
			case <-said:
				tell()
			case <-ctx.Done():
				return
			}
		}
	})
}

// comes waits until something that follow is told of is as it should be.
func (r *rig) comes(what string, is func() string, want string) {
	r.t.Helper()
	for late := time.After(patience); ; {
		got := is()
		if got == want {
			return
		}
		select {
		case <-r.news:
		case <-late:
			r.t.Fatalf("%s: %s, want %s", what, got, want)
		}
	}
}

// appears calls begin and waits until a file is made in a directory.
func appears(t *testing.T, dir, name string, begin func()) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	begin()
	for late := time.After(patience); ; {
		select {
		case e := <-w.Events:
			if e.Has(fsnotify.Create) && filepath.Base(e.Name) == name {
				return
			}
		case err := <-w.Errors:
			t.Fatal(err)
		case <-late:
			t.Fatalf("there is no %s", name)
		}
	}
}
