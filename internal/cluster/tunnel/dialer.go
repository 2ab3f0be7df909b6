package tunnel

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// headStart is how long the straight way is tried alone: longer than it takes anywhere on earth, shorter than anybody waits.
	headStart = 300 * time.Millisecond
	// remembered is for how long a node is reached through its tunnel first, after the straight way has failed.
	remembered = 5 * time.Minute
	// straightTimeout bounds attempts on the straight way, so that there is a reason to tell.
	straightTimeout = 10 * time.Second
)

// Tunnels says which nodes have tunnels. See Hub.
type Tunnels interface{ Has(node string) bool }

// Ways are two ways to the same place on a node. Each makes a connection that is ready to be used.
type Ways struct {
	Straight, Through func(ctx context.Context) (net.Conn, error)
}

// Dialer chooses between the straight way to a node and its tunnel. The straight way is cheaper and is tried first; when it takes long the tunnel is tried as well, and
// which of them it was is remembered for a while. It may be used from many goroutines.
type Dialer struct {
	tunnels Tunnels
	// failed gets what is wrong with the straight way to a node whose tunnel works.
	failed func(ctx context.Context, node string, err error)
	// life ends attempts that nobody waits for.
	life context.Context
	end  context.CancelFunc

	mu      sync.Mutex           // guards what follows
	through map[string]time.Time // nodes whose tunnel is tried first, until when
	closed  bool
	losers  sync.WaitGroup
}

// NewDialer returns a Dialer. Failed may be nil; it is called once each time that the straight way to a node turns out to be closed, from a goroutine of its own; Close ends its context.
func NewDialer(t Tunnels, failed func(ctx context.Context, node string, err error)) *Dialer {
	if failed == nil {
		failed = func(context.Context, string, error) {}
	}
	d := &Dialer{tunnels: t, failed: failed, through: map[string]time.Time{}}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// Close ends attempts that nobody waits for any more.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.losers.Wait()
	return nil
}

// outcome is how an attempt ended.
type outcome struct {
	conn net.Conn
	err  error
}

// Dial goes one of the ways to a node. What is named by kind is remembered apart: pods may be reached while the node is not.
func (d *Dialer) Dial(ctx context.Context, node, kind string, w Ways) (net.Conn, error) {
	if !d.tunnels.Has(node) {
		return d.straight(ctx, w)
	}
	key := kind + "/" + node
	if d.prefersTunnel(key) {
		conn, err := w.Through(ctx)
		if err == nil || final(err) || ctx.Err() != nil {
			return conn, err
		}
		d.remember(key, false)
		return d.straight(ctx, w)
	}
	return d.race(ctx, node, key, w)
}

// Through goes through a tunnel, and straight only if there is none that works.
func (d *Dialer) Through(ctx context.Context, w Ways) (net.Conn, error) {
	conn, err := w.Through(ctx)
	if err == nil || final(err) || ctx.Err() != nil {
		return conn, err
	}
	return d.straight(ctx, w)
}

func (d *Dialer) straight(ctx context.Context, w Ways) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, straightTimeout)
	defer cancel()
	return w.Straight(ctx)
}

// final says that err is the node's own word: no other way leads further.
func final(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

// race gives the straight way a start. If the tunnel wins, the straight way is followed to its end, to know what is wrong with it.
func (d *Dialer) race(ctx context.Context, node, key string, w Ways) (net.Conn, error) {
	straightCtx, giveUp := context.WithCancel(d.life)
	throughCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	straight := d.attempt(func() (net.Conn, error) { return d.straight(straightCtx, w) })
	var through <-chan outcome
	var straightErr, throughErr error
	start := time.NewTimer(headStart)
	defer start.Stop()
	// leave lets go of what is not needed any more.
	leave := func() {
		giveUp()
		cancel()
		d.discard(straight)
		d.discard(through)
	}
	goThrough := func() {
		if through == nil && throughErr == nil {
			through = d.attempt(func() (net.Conn, error) { return w.Through(throughCtx) })
		}
	}
	for {
		select {
		case <-ctx.Done():
			leave()
			return nil, context.Cause(ctx)
		case <-start.C:
			goThrough()
		case o := <-straight:
			straight = nil
			if o.err == nil {
				d.remember(key, false)
				leave()
				return o.conn, nil
			}
			straightErr = o.err
			if throughErr != nil {
				leave()
				return nil, errors.Join(straightErr, throughErr)
			}
			goThrough()
		case o := <-through:
			through = nil
			switch {
			case o.err == nil:
				d.remember(key, true)
				d.learn(node, key, straight, straightErr, giveUp)
				return o.conn, nil
			case final(o.err):
				leave()
				return nil, o.err
			}
			throughErr = o.err
			if straight == nil {
				leave()
				return nil, errors.Join(straightErr, throughErr)
			}
		}
	}
}

// attempt dials in a goroutine. Its outcome has to be taken, by discard at the latest.
func (d *Dialer) attempt(dial func() (net.Conn, error)) <-chan outcome {
	c := make(chan outcome, 1)
	d.owned(func() {
		conn, err := dial()
		c <- outcome{conn, err}
	})
	return c
}

func (d *Dialer) discard(c <-chan outcome) {
	if c == nil {
		return
	}
	d.owned(func() {
		if o := <-c; o.conn != nil {
			_ = o.conn.Close()
		}
	})
}

// learn tells why the tunnel was needed, when it is known: err, or what comes of the straight way.
func (d *Dialer) learn(node, key string, straight <-chan outcome, err error, done func()) {
	d.owned(func() {
		defer done()
		if straight != nil {
			o := <-straight
			if o.err == nil {
				_ = o.conn.Close()
				d.remember(key, false) // it was slow once
				return
			}
			err = o.err
		}
		if d.life.Err() == nil {
			d.failed(d.life, node, err)
		}
	})
}

// owned runs f in a goroutine that Close waits for. After that f finds everything cancelled, and is run at once.
func (d *Dialer) owned(f func()) {
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.losers.Add(1)
	}
	d.mu.Unlock()
	if closed {
		f()
		return
	}
	go func() {
		defer d.losers.Done()
		f()
	}()
}

func (d *Dialer) prefersTunnel(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.through[key]
	return ok && time.Now().Before(until)
}

func (d *Dialer) remember(key string, through bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !through {
		delete(d.through, key)
		return
	}
	for other, until := range d.through {
		if time.Now().After(until) {
			delete(d.through, other)
		}
	}
	d.through[key] = time.Now().Add(remembered)
}
