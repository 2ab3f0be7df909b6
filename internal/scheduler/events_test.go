package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"
)

// writing runs an event writer in a bubble of virtual time.
func writing(t *testing.T, poster Poster, binds int, f func(w *eventWriter, client *fake.Clientset)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		w := newEventWriter(client, poster, clock.RealClock{}, slog.New(slog.DiscardHandler), func() int { return binds })
		ctx, cancel := context.WithCancel(t.Context())
		w.open(ctx)
		f(w, client)
		cancel()
		w.close()
	})
}

func written(t *testing.T, client *fake.Clientset) []v1.Event {
	t.Helper()
	synctest.Wait()
	list, err := client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestEventSeries(t *testing.T) {
	writing(t, nil, 0, func(w *eventWriter, client *fake.Clientset) {
		r, pod := w.reporter("mine"), newPod("p")
		fails := func(n int) {
			r.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "no room %d", n)
			synctest.Wait()
		}
		fails(1)
		e := written(t, client)
		if len(e) != 1 || e[0].Message != "no room 1" || e[0].Series != nil || e[0].ReportingController != "mine" || !strings.HasPrefix(e[0].ReportingInstance, "mine-") ||
			e[0].InvolvedObject.UID != pod.UID || e[0].EventTime.IsZero() || e[0].Type != v1.EventTypeWarning {
			t.Fatalf("%+v", e)
		}
		fails(2) // within the pause: counted, not written
		if e := written(t, client); len(e) != 1 || e[0].Series != nil {
			t.Errorf("%+v", e)
		}
		time.Sleep(seriesPause)
		fails(3)
		if e := written(t, client); len(e) != 1 || e[0].Series == nil || e[0].Series.Count != 3 || e[0].Message != "no room 3" {
			t.Errorf("%+v", e)
		}
		// One that is gone is written anew.
		if err := client.CoreV1().Events("default").Delete(context.Background(), e[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(seriesPause)
		fails(4)
		if e := written(t, client); len(e) != 1 || e[0].Series == nil || e[0].Series.Count != 4 {
			t.Errorf("%+v", e)
		}
		time.Sleep(seriesEnd + time.Second)
		fails(5)
		if e := written(t, client); len(e) != 2 {
			t.Errorf("after a long silence: %+v", e)
		}
		time.Sleep(2 * seriesEnd)
		r.Eventf(newPod("q"), nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "other")
		if len(w.series) != 1 {
			t.Errorf("%d series are remembered", len(w.series))
		}
	})
}

// slowAPI takes its time.
type slowAPI struct {
	Poster // of which it does nothing but Post
	mu     sync.Mutex
	events []*v1.Event
	fail   error
}

func (s *slowAPI) Post(ctx context.Context, path string, obj runtime.Object) error {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	e, ok := obj.(*v1.Event)
	if !ok || path != "/api/v1/namespaces/default/events" {
		return fmt.Errorf("%s of a %T", path, obj)
	}
	s.events = append(s.events, e)
	return nil
}

// TestEventsWait: a few are written at once, the others in their order, and none after the end.
func TestEventsWait(t *testing.T) {
	api := &slowAPI{}
	writing(t, api, 0, func(w *eventWriter, _ *fake.Clientset) {
		r := w.reporter("mine")
		for i := range 10 * eventCalls {
			r.Eventf(newPod(fmt.Sprint("p", i)), newPod("other"), v1.EventTypeNormal, "Preempted", "Preempting", "x")
		}
		time.Sleep(3*time.Second + time.Second/2)
		api.mu.Lock()
		defer api.mu.Unlock()
		if len(api.events) != 3*eventCalls {
			t.Errorf("%d events after three seconds", len(api.events))
		}
		if e := api.events[0]; e.Related == nil || e.Related.Name != "other" {
			t.Errorf("%+v", e)
		}
	})
	if len(api.events) != 3*eventCalls {
		t.Errorf("%d events at the end", len(api.events))
	}
}

// TestEventsFail: an event that can't be written is dropped; a series goes on.
func TestEventsFail(t *testing.T) {
	api := &slowAPI{fail: errors.New("no")}
	writing(t, api, 0, func(w *eventWriter, _ *fake.Clientset) {
		r, pod := w.reporter("mine"), newPod("p")
		fails := func() {
			r.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "x")
			time.Sleep(2 * time.Second)
		}
		fails()
		api.mu.Lock()
		api.fail = nil
		api.mu.Unlock()
		fails()
		api.mu.Lock()
		defer api.mu.Unlock()
		if len(api.events) != 1 || api.events[0].Series == nil || api.events[0].Series.Count != 2 {
			t.Errorf("%+v", api.events)
		}
	})
}

// TestEventsYield: while pods are being bound, few events are written at once, but in their order, and more of them when too many wait.
func TestEventsYield(t *testing.T) {
	api := &slowAPI{}
	writing(t, api, busyBinds, func(w *eventWriter, _ *fake.Clientset) {
		r := w.reporter("mine")
		for i := range 10 * eventCalls {
			r.Eventf(newPod(fmt.Sprint("p", i)), nil, v1.EventTypeNormal, "Scheduled", "Binding", "x")
		}
		time.Sleep(3*time.Second + time.Second/2)
		api.mu.Lock()
		if len(api.events) != 3*busyEventCalls || api.events[1].InvolvedObject.Name != "p1" {
			t.Errorf("%d events after three seconds", len(api.events))
		}
		api.mu.Unlock()
		if n := w.calls.limit(manyEvents); n != eventCalls {
			t.Errorf("%d at once when too many wait", n)
		}
	})
}

// TestPoolGrows: goroutines that were too many leave, and come back when the limit allows it.
func TestPoolGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := 3
		p := pool{limit: func(int) int { return limit }} // with the pool's mutex
		called := 0
		for range 20 {
			p.do(func() {
				time.Sleep(time.Second)
				p.mu.Lock()
				called++
				p.mu.Unlock()
			}, 100)
		}
		for _, want := range []struct{ limit, more int }{{3, 3}, {1, 3}, {1, 1}, {3, 1}, {3, 3}} {
			p.mu.Lock()
			limit = want.limit
			before := called
			p.mu.Unlock()
			time.Sleep(time.Second)
			synctest.Wait()
			p.mu.Lock()
			if called-before != want.more {
				t.Errorf("%d calls in a second with a limit of %d, want %d", called-before, want.limit, want.more)
			}
			p.mu.Unlock()
		}
		p.close()
		if called != 20 {
			t.Errorf("%d calls", called)
		}
	})
}

func TestEventLimits(t *testing.T) {
	now := time.Unix(1, 2)
	if name := eventName(strings.Repeat("a", 236)+"-"+strings.Repeat("b", 16), now); len(name) > 253 || strings.Contains(name, "-.") {
		t.Errorf("%d: %s", len(name), name)
	}
	if a, b := eventName("p", now), eventName("p", now.Add(1)); a == b || !strings.HasPrefix(a, "p.") {
		t.Error(a, b)
	}
	if s := shortened(strings.Repeat("x", 2*maxNote)); len(s) != maxNote {
		t.Error(len(s))
	}
	p := pool{limit: fixed(1)}
	p.running = 1 // somebody is busy
	for i := range 3 {
		if ok := p.do(func() {}, 2); ok != (i < 2) {
			t.Errorf("call %d: %v", i, ok)
		}
	}
}

// TestPool: everything is called once, by no more goroutines than the limit, and spare ones end with close.
func TestPool(t *testing.T) {
	p := pool{limit: fixed(3), spare: 2}
	var mu sync.Mutex
	var running, most, called int
	for range 5000 {
		p.do(func() {
			mu.Lock()
			running++
			most = max(most, running)
			called++
			mu.Unlock()
			mu.Lock()
			running--
			mu.Unlock()
		}, 1<<20)
	}
	p.close()
	if called != 5000 || most > 3 {
		t.Errorf("%d calls, %d at once", called, most)
	}
}
