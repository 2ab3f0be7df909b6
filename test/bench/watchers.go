package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	watchersMethod = "10,000 watchers of one namespace's ConfigMaps with a label selector on 16 connections, JSON. Memory is what the server's Pss has grown by 15 s after the last of them has begun; " +
		"then 10 merge patches a second for 20 s: the time from just before each is sent until each watcher has read its event, and the CPU time of the server, patches included, over all events. " +
		"The same memory for 1,000 watchers that have a connection each."

	crowd        = 10000
	crowdUpdates = 200
	crowdEvery   = time.Second / 10
	lonely       = 1000
	// crowdSettle is more than the server waits before it counts as idle and gives memory back.
	crowdSettle = 15 * time.Second
	// sentKey stands before the time at which an update was sent.
	sentKey = `"at":"`
)

// crowdPath is what the watchers watch.
func crowdPath(version string) string {
	return inNamespace("configmaps?watch=true&allowWatchBookmarks=true&labelSelector=app%3Dbench&resourceVersion=" + version)
}

// audience is many watchers.
type audience struct {
	wg       sync.WaitGroup
	stop     context.CancelFunc
	events   atomic.Int64
	failures atomic.Int64
	mu       sync.Mutex
	took     []time.Duration // guarded by mu
}

// open begins n watches on a client's connections.
func (a *audience) open(ctx context.Context, c *client, n int, path string) error {
	watching, stop := context.WithCancel(ctx)
	a.stop = stop
	return parallel(ctx, clients, n, func(_ context.Context, _, i int) error {
		resp, err := c.open(watching, i, call{method: http.MethodGet, path: path})
		if err != nil {
			return err
		}
		a.wg.Go(func() {
			defer func() { _ = resp.Body.Close() }() // the watch is given up, not ended
			a.read(watching, resp)
		})
		return nil
	})
}

// read notes how old each event is when it comes.
func (a *audience) read(ctx context.Context, resp *http.Response) {
	var took []time.Duration
	lines := bufio.NewReaderSize(resp.Body, 2<<10)
	for {
		line, err := lines.ReadSlice('\n')
		now := time.Now()
		if sent, ok := sentAt(line); ok {
			took = append(took, now.Sub(sent))
			a.events.Add(1)
		}
		if err != nil && err != bufio.ErrBufferFull {
			if ctx.Err() == nil {
				a.failures.Add(1)
			}
			a.mu.Lock()
			a.took = append(a.took, took...)
			a.mu.Unlock()
			return
		}
	}
}

func (a *audience) close() {
	if a.stop != nil {
		a.stop()
	}
	a.wg.Wait()
}

// sentAt finds the time in an event's data, which stands at the beginning of the object.
func sentAt(line []byte) (time.Time, bool) {
	_, rest, ok := bytes.Cut(line, []byte(sentKey))
	if !ok {
		return time.Time{}, false
	}
	digits, _, ok := bytes.Cut(rest, []byte(`"`))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return time.Unix(0, n), ok && err == nil && n > 0
}

func watchersScenario(ctx context.Context, b *bench) error {
	err := b.onStage("watchers", func(s *stage) error {
		version, err := s.watched(ctx)
		if err != nil {
			return err
		}
		before, err := s.settled(ctx)
		if err != nil {
			return err
		}
		var a audience
		defer a.close()
		b.say("watchers: opening %d", crowd)
		if err := a.open(ctx, s.client, crowd, crowdPath(version)); err != nil {
			return err
		}
		after, err := s.settled(ctx)
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "memory of an idle watcher", Value: float64(after-before) / crowd / 1024, Unit: "KiB", Target: 30, Detail: fmt.Sprintf("%d on %d connections", crowd, connections)})
		return b.addressCrowd(ctx, s, &a)
	}, "--disable-node")
	if err != nil {
		return err
	}
	return b.onStage("watchers", func(s *stage) error {
		version, err := s.watched(ctx)
		if err != nil {
			return err
		}
		many, err := newClient(s.Machine, lonely)
		if err != nil {
			return err
		}
		defer many.close()
		before, err := s.settled(ctx)
		if err != nil {
			return err
		}
		var a audience
		defer a.close()
		if err := a.open(ctx, many, lonely, crowdPath(version)); err != nil {
			return err
		}
		after, err := s.settled(ctx)
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "the same with a connection", Value: float64(after-before) / lonely / 1024, Unit: "KiB", Detail: fmt.Sprintf("%d connections", lonely)})
		return nil
	}, "--disable-node")
}

// watched makes the object that is watched.
func (s *stage) watched(ctx context.Context) (version string, err error) {
	if err := s.client.makeNamespace(ctx); err != nil {
		return "", err
	}
	return s.makeWatched(ctx)
}

// settled is the cluster's memory after it has had nothing to do for a while.
func (s *stage) settled(ctx context.Context) (int64, error) {
	if err := pause(ctx, crowdSettle); err != nil {
		return 0, err
	}
	pss, err := s.cluster.pss()
	return sum(pss), err
}

// addressCrowd updates what all watch.
func (b *bench) addressCrowd(ctx context.Context, s *stage, a *audience) error {
	b.say("watchers: %d updates", crowdUpdates)
	before, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	for i := range crowdUpdates {
		if err := pause(ctx, time.Until(begin.Add(time.Duration(i)*crowdEvery))); err != nil {
			return err
		}
		body := fmt.Appendf(nil, `{"data":{"at":"%d"}}`, time.Now().UnixNano())
		if _, err := s.client.drain(ctx, 0, call{method: http.MethodPatch, path: inNamespace("configmaps/watched"), contentType: typeMerge, body: body}); err != nil {
			return err
		}
	}
	for limit := time.Now().Add(deliveryLimit); a.events.Load() < crowd*crowdUpdates && time.Now().Before(limit); {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	after, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	a.close()
	if got := a.events.Load(); got != crowd*crowdUpdates || a.failures.Load() > 0 {
		return fmt.Errorf("%d of %d events came, %d watches ended", got, crowd*crowdUpdates, a.failures.Load())
	}
	b.out.figure(figure{Name: "delivery, p99", Value: milliseconds(quantile(a.took, 0.99)), Unit: "ms", Target: 1000,
		Detail: fmt.Sprintf("p50 %.0f ms; %d events to each of %d in %.1f s", milliseconds(quantile(a.took, 0.5)), crowdUpdates, crowd, took.Seconds())})
	b.out.figure(figure{Name: "event to one of 10,000", Value: float64((after - before).Microseconds()) / (crowd * crowdUpdates), Unit: "µs CPU"})
	return nil
}
