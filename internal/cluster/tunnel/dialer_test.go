package tunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// way is how one way to a node behaves: after so long it is there, or there is an error. While it is waited for it can be given up.
type way struct {
	after time.Duration
	err   error

	tried atomic.Int32
	open  atomic.Int32 // connections that were not closed
}

type counted struct {
	net.Conn
	w *way
}

func (c counted) Close() error {
	c.w.open.Add(-1)
	return nil
}

func (w *way) dial(ctx context.Context) (net.Conn, error) {
	w.tried.Add(1)
	select {
	case <-time.After(w.after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	w.open.Add(1)
	return counted{w: w}, nil
}

type tunnelled bool

func (t tunnelled) Has(string) bool { return bool(t) }

var errBroken = errors.New("broken")

func TestDialer(t *testing.T) {
	never := time.Hour
	refused := &RefusedError{Node: "n", Text: "connection refused"}
	for _, c := range []struct {
		name              string
		none              bool // no tunnel
		straight, through *way
		// What becomes of it: nil is a connection.
		want    error
		by      string // "straight" or "through"
		took    time.Duration
		learned bool // somebody is told what is wrong with the straight way
		// Next time: which way is tried first.
		first string
	}{
		{name: "straight", straight: &way{after: 50 * time.Millisecond}, through: &way{}, by: "straight", took: 50 * time.Millisecond, first: "straight"},
		{name: "no tunnel", none: true, straight: &way{after: time.Second}, through: &way{}, by: "straight", took: time.Second, first: "straight"},
		{name: "no tunnel and no way", none: true, straight: &way{after: time.Second, err: errBroken}, through: &way{}, want: errBroken, took: time.Second, first: "straight"},
		{name: "no answer", straight: &way{after: never}, through: &way{}, by: "through", took: headStart, learned: true, first: "through"},
		{name: "refused at once", straight: &way{after: time.Millisecond, err: errBroken}, through: &way{}, by: "through", took: time.Millisecond, learned: true, first: "through"},
		{name: "only slow", straight: &way{after: 2 * time.Second}, through: &way{}, by: "through", took: headStart, first: "straight"},
		{name: "a slow tunnel", straight: &way{after: time.Second}, through: &way{after: 5 * time.Second}, by: "straight", took: time.Second, first: "straight"},
		{name: "a broken tunnel", straight: &way{after: time.Second}, through: &way{err: errBroken}, by: "straight", took: time.Second, first: "straight"},
		{name: "nothing works", straight: &way{after: time.Second, err: errBroken}, through: &way{err: errBroken}, want: errBroken, took: time.Second, first: "straight"},
		{name: "the node's word", straight: &way{after: never}, through: &way{err: refused}, want: refused, took: headStart, first: "straight"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				learned := 0
				var mu sync.Mutex
				d := NewDialer(tunnelled(!c.none), func(_ context.Context, node string, err error) {
					mu.Lock()
					defer mu.Unlock()
					learned++
					if node != "n" || err == nil {
						t.Errorf("told of %q, %v", node, err)
					}
				})
				ways := Ways{Straight: c.straight.dial, Through: c.through.dial}
				begun := time.Now()
				conn, err := d.Dial(t.Context(), "n", "api", ways)
				if !errors.Is(err, c.want) || (conn == nil) != (c.want != nil) {
					t.Fatalf("got %v, %v, want %v", conn, err, c.want)
				}
				if took := time.Since(begun); took != c.took {
					t.Errorf("it takes %s, want %s", took, c.took)
				}
				if c.want == nil {
					by := "straight"
					if conn.(counted).w == c.through {
						by = "through"
					}
					if by != c.by {
						t.Errorf("it goes %s, want %s", by, c.by)
					}
				}
				time.Sleep(2 * straightTimeout) // whatever was left comes to its end
				synctest.Wait()
				mu.Lock()
				if (learned > 0) != c.learned || learned > 1 {
					t.Errorf("somebody is told %d times", learned)
				}
				mu.Unlock()
				if conn != nil {
					if err := conn.Close(); err != nil {
						t.Error(err)
					}
				}
				if c.straight.open.Load() != 0 || c.through.open.Load() != 0 {
					t.Errorf("%d and %d connections are left", c.straight.open.Load(), c.through.open.Load())
				}
				// Next time.
				var fast way
				next := Ways{Straight: (&way{err: errBroken}).dial, Through: fast.dial}
				if c.first == "straight" {
					next = Ways{Straight: fast.dial, Through: (&way{err: errBroken}).dial}
				}
				begun = time.Now()
				if _, err := d.Dial(t.Context(), "n", "api", next); err != nil || time.Since(begun) != 0 {
					t.Errorf("next time: %v after %s", err, time.Since(begun))
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What is remembered is forgotten, per kind and node, and a tunnel that does not work is not insisted on.
func TestDialerRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(tunnelled(true), nil)
		dial := func(node, kind string, w Ways) net.Conn {
			t.Helper()
			c, err := d.Dial(t.Context(), node, kind, w)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		var closed, tunnel, open way
		closed.after = time.Hour
		dial("n", "api", Ways{closed.dial, tunnel.dial})
		dial("n", "api", Ways{closed.dial, tunnel.dial})
		if closed.tried.Load() != 1 || tunnel.tried.Load() != 2 {
			t.Errorf("the straight way is tried %d times, the tunnel %d", closed.tried.Load(), tunnel.tried.Load())
		}
		dial("n", "pods", Ways{open.dial, tunnel.dial})
		dial("m", "api", Ways{open.dial, tunnel.dial})
		if open.tried.Load() != 2 || tunnel.tried.Load() != 2 {
			t.Errorf("others: the straight way is tried %d times, the tunnel %d", open.tried.Load(), tunnel.tried.Load())
		}
		time.Sleep(remembered)
		dial("n", "api", Ways{open.dial, tunnel.dial})
		if open.tried.Load() != 3 || tunnel.tried.Load() != 2 {
			t.Errorf("after a while: the straight way is tried %d times, the tunnel %d", open.tried.Load(), tunnel.tried.Load())
		}
		dial("n", "api", Ways{closed.dial, tunnel.dial})
		dial("n", "api", Ways{open.dial, (&way{err: errBroken}).dial})
		if open.tried.Load() != 4 {
			t.Error("a broken tunnel is insisted on")
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDialerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(tunnelled(true), func(context.Context, string, error) { t.Error("nobody knows what is wrong") })
		never := &way{after: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := d.Dial(ctx, "n", "api", Ways{never.dial, never.dial}); !errors.Is(err, context.DeadlineExceeded) || c != nil {
			t.Errorf("got %v, %v", c, err)
		}
		// An end in the middle of it.
		if _, err := d.Dial(t.Context(), "n", "api", Ways{never.dial, (&way{}).dial}); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if _, err := d.Dial(t.Context(), "m", "api", Ways{never.dial, (&way{err: errBroken}).dial}); err == nil {
			t.Error("it dials after its end")
		}
	})
}

// Without a network of pods the tunnel comes first.
func TestDialerThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDialer(tunnelled(true), nil)
		var open, tunnel way
		if _, err := d.Through(t.Context(), Ways{open.dial, tunnel.dial}); err != nil || open.tried.Load() != 0 {
			t.Errorf("%v, the straight way is tried %d times", err, open.tried.Load())
		}
		if _, err := d.Through(t.Context(), Ways{open.dial, (&way{err: ErrNone}).dial}); err != nil || open.tried.Load() != 1 {
			t.Errorf("%v, the straight way is tried %d times", err, open.tried.Load())
		}
		refused := &RefusedError{Node: "n", Text: "no"}
		if _, err := d.Through(t.Context(), Ways{open.dial, (&way{err: refused}).dial}); !errors.Is(err, refused) || open.tried.Load() != 1 {
			t.Errorf("%v, the straight way is tried %d times", err, open.tried.Load())
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
