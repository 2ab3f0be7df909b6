package workers

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// at tells how many goroutines the pool has.
func (p *Pool) at() (idle int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func TestGoroutinesAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		for range 10 {
			p.Run(func() {})
			synctest.Wait()
			if n := p.at(); n != 1 {
				t.Fatalf("%d goroutines wait after one thing at a time", n)
			}
		}
		gate := make(chan struct{})
		for range 8 {
			p.Run(func() { <-gate })
		}
		synctest.Wait()
		if n := p.at(); n != 0 {
			t.Fatalf("%d goroutines wait while all have to do", n)
		}
		close(gate)
		synctest.Wait()
		for _, want := range []int{8, 2, 0} { // three of four end from time to time
			if n := p.at(); n != want {
				t.Fatalf("%d goroutines wait, want %d", n, want)
			}
			time.Sleep(linger + time.Millisecond)
			synctest.Wait()
		}
		p.Close()
	})
}

func TestClose(t *testing.T) {
	var p Pool
	var done atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				p.Run(func() { done.Add(1) })
			}
		})
	}
	wg.Wait()
	p.Close()
	if n := done.Load(); n != 4000 {
		t.Errorf("%d of 4000 were done when the pool had been closed", n)
	}
	p.Close()
}

func TestMoreIsDoneWhileThePoolIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		gate, done := make(chan struct{}), false
		p.Run(func() {
			<-gate
			p.Run(func() { done = true })
		})
		time.AfterFunc(time.Second, func() { close(gate) })
		p.Close()
		if !done {
			t.Error("what was begun by the last to end was not done when the pool had been closed")
		}
	})
}

func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		gate := make(chan struct{})
		p.Run(func() { <-gate })
		p.Run(func() {})
		synctest.Wait()
		p.Rest()
		close(gate)
		synctest.Wait()
		if n := p.at(); n != 0 {
			t.Errorf("%d goroutines wait after Rest", n)
		}
		p.Run(func() {})
		synctest.Wait()
		if n := p.at(); n != 1 {
			t.Errorf("%d goroutines wait after more was done, want 1", n)
		}
		p.Close()
	})
}

func BenchmarkRun(b *testing.B) {
	b.ReportAllocs()
	var p Pool
	defer p.Close()
	done := make(chan struct{})
	for b.Loop() {
		p.Run(func() { deep(64); done <- struct{}{} })
		<-done
	}
}

func BenchmarkGo(b *testing.B) { // what Run is there to be cheaper than
	b.ReportAllocs()
	done := make(chan struct{})
	for b.Loop() {
		go func() { deep(64); done <- struct{}{} }()
		<-done
	}
}

//go:noinline
func deep(n int) byte {
	var frame [128]byte
	if n > 0 {
		frame[n%len(frame)] = deep(n - 1)
	}
	return frame[n%len(frame)] + 1
}
