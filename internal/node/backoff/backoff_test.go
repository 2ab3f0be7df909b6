package backoff

import (
	"testing"
	"time"
)

func TestDelaysGrowAndAreForgotten(t *testing.T) {
	b := New(10*time.Second, 5*time.Minute)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if until, _ := b.Until("k", now, now); !until.IsZero() {
		t.Fatal("the first failure waits")
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		b.Next("k", now, now)
		until, delay := b.Until("k", now, now)
		if delay != want*time.Second || !until.Equal(now.Add(delay)) {
			t.Fatalf("until %v (%v), want %v", until, delay, want*time.Second)
		}
		if until, _ := b.Until("k", now, until); !until.IsZero() {
			t.Fatal("it waits longer than its delay")
		}
		now = until
	}
	// It ran for longer than twice the greatest delay.
	now = now.Add(10*time.Minute + time.Second)
	if until, _ := b.Until("k", now, now); !until.IsZero() {
		t.Error("an old failure still counts")
	}
	b.Next("k", now, now)
	if _, delay := b.Until("k", now, now); delay != 10*time.Second {
		t.Errorf("delay %v after a long run", delay)
	}
	b.Forget("k")
	if _, ok := b.At("k"); ok {
		t.Error("a forgotten key is there")
	}
}
