package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoopRetriesAndSurvivesPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		l := NewLoop("test", func(_ context.Context, key string) error {
			switch calls.Add(1) {
			case 1:
				return errors.New("first")
			case 2:
				panic("second")
			}
			return nil
		}, Options{Workers: 2})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		l.Add("a/b") // before somebody could work on it: once
		l.Add("a/b")
		go func() { done <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := calls.Load(); got != 3 {
			t.Errorf("reconciled %d times, want 3: an error, a panic, a success", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The pauses after failures double from the first to the longest one.
func TestBackOff(t *testing.T) {
	for _, tt := range []struct {
		name    string
		o       Options
		pauses  []time.Duration // the first ones
		longest time.Duration
	}{
		{"as upstream's queues", Options{}, []time.Duration{5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}, 1000 * time.Second},
		{"as a controller says", Options{MinBackoff: time.Second, MaxBackoff: 5 * time.Second}, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var at []time.Time
				tt.o.Workers = 1
				l := NewLoop("test", func(context.Context, string) error {
					at = append(at, time.Now())
					return errors.New("again")
				}, tt.o)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				l.Add("k")
				go func() { done <- l.Run(ctx) }()
				time.Sleep(3 * time.Hour) // of the bubble's clock: what is counted is how often the loop tries meanwhile
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				for i, want := range tt.pauses {
					if got := at[i+1].Sub(at[i]); got != want {
						t.Errorf("pause %d: %v, want %v", i, got, want)
					}
				}
				if got := at[len(at)-1].Sub(at[len(at)-2]); got != tt.longest {
					t.Errorf("at last: %v, want %v", got, tt.longest)
				}
			})
		})
	}
}

func TestPending(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Unix(1000, 0))
	created := func(uid types.UID) func() (types.UID, error) {
		return func() (types.UID, error) { return uid, nil }
	}
	tests := []struct {
		name    string
		do      func(p *Pending)
		settled bool
	}{
		{"nothing", func(*Pending) {}, true},
		{"created, unseen", func(p *Pending) { _ = p.Create("k", created("u")) }, false},
		{"created, seen", func(p *Pending) { _ = p.Create("k", created("u")); p.ObserveCreated("u") }, true},
		{"created, seen gone", func(p *Pending) { _ = p.Create("k", created("u")); p.ObserveDeleted("u") }, true},
		{"seen before the answer", func(p *Pending) {
			_ = p.Create("k", func() (types.UID, error) { p.ObserveCreated("u"); return "u", nil })
		}, true},
		{"create failed", func(p *Pending) {
			_ = p.Create("k", func() (types.UID, error) { return "", errors.New("no") })
		}, true},
		{"deleted, only an update seen", func(p *Pending) {
			_ = p.Delete("k", "u", func() error { return nil })
			p.ObserveCreated("u")
		}, false},
		{"deleted, seen", func(p *Pending) {
			_ = p.Delete("k", "u", func() error { return nil })
			p.ObserveDeleted("u")
		}, true},
		{"delete failed", func(p *Pending) { _ = p.Delete("k", "u", func() error { return errors.New("no") }) }, true},
		{"other key", func(p *Pending) { _ = p.Create("other", created("u")) }, true},
		{"given up", func(p *Pending) {
			_ = p.Create("k", created("u"))
			clock.SetTime(clock.Now().Add(pendingTimeout + time.Second))
		}, true},
		{"forgotten", func(p *Pending) { _ = p.Create("k", created("u")); p.Forget("k") }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := NewPending(clock)
			tt.do(p)
			if got := p.Settled("k"); got != tt.settled {
				t.Errorf("settled = %v, want %v", got, tt.settled)
			}
			if len(p.early) != 0 {
				t.Errorf("early deliveries kept: %v", p.early)
			}
		})
	}
}
