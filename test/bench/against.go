package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"
)

const (
	// turnUpdates is how many patches a turn of fan-out has.
	turnUpdates = 100
	// turnLists is how many lists a turn has.
	turnLists = 20
	// turnRequests is how many requests a turn has.
	turnRequests = 500
	// turnPause is how long a server may be busy with what it was asked for after it has answered.
	turnPause = 60 * time.Millisecond
)

// measure does the same thing once more and returns what it cost.
type measure func(context.Context) (float64, error)

// comparison is something of which two binaries can take turns. open has use work with a way to measure one of them.
type comparison struct {
	name, unit string
	open       func(ctx context.Context, b *bench, bin string, use func(measure) error) error
}

func comparisons() []comparison {
	all := []comparison{
		{"watch-fan-out", "µs CPU", staged(watchers*turnUpdates, time.Microsecond, fanOutTurn(watchers))},
		{"patch-alone", "µs CPU", staged(turnUpdates, time.Microsecond, fanOutTurn(0))},
		{"create", "ms CPU", staged(turnRequests, time.Millisecond, createTurn)},
		{"list-json", "ms CPU", staged(turnLists, time.Millisecond, listTurn(typeJSON))},
		{"list-protobuf", "ms CPU", staged(turnLists, time.Millisecond, listTurn(typeProtobuf))},
	}
	for _, w := range workloads() {
		all = append(all, comparison{w.name, podsUnit, func(_ context.Context, b *bench, bin string, use func(measure) error) error {
			return use(func(ctx context.Context) (float64, error) {
				r, err := b.simulationOf(ctx, bin, w.name, b.opt.nodes)
				if err != nil {
					return 0, err
				}
				return r.Scheduling.PodsPerSecond, nil
			})
		}})
	}
	return all
}

// staged starts a server and measures its CPU time for n things that a turn does, in a unit.
func staged(n int, unit time.Duration, prepare func(context.Context, *stage) (turn func(context.Context) error, err error)) func(context.Context, *bench, string, func(measure) error) error {
	return func(ctx context.Context, b *bench, bin string, use func(measure) error) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return b.onStageOf(bin, "against", func(s *stage) error {
			defer cancel() // what was begun ends before the server does
			if err := s.client.makeNamespace(ctx); err != nil {
				return err
			}
			turn, err := prepare(ctx, s)
			if err != nil {
				return err
			}
			return use(func(ctx context.Context) (float64, error) {
				before, err := s.cluster.cpu()
				if err != nil {
					return 0, err
				}
				if err := turn(ctx); err != nil {
					return 0, err
				}
				if err := pause(ctx, turnPause); err != nil {
					return 0, err
				}
				after, err := s.cluster.cpu()
				return float64(after-before) / float64(unit) / float64(n), err
			})
		}, "--disable-node")
	}
}

// fanOutTurn patches an object that so many watch.
func fanOutTurn(audience int) func(context.Context, *stage) (func(context.Context) error, error) {
	return func(ctx context.Context, s *stage) (func(context.Context) error, error) {
		version, err := s.makeWatched(ctx)
		if err != nil {
			return nil, err
		}
		for i := range audience {
			resp, err := s.client.open(ctx, i, call{method: http.MethodGet, path: watchedPath(version)})
			if err != nil {
				return nil, err
			}
			go func() {
				_ = readEvents(resp, math.MaxInt) // until ctx ends
				_ = resp.Body.Close()             // the watch is given up, not ended
			}()
		}
		return func(ctx context.Context) error { return s.update(ctx, turnUpdates) }, nil
	}
}

func createTurn(_ context.Context, s *stage) (func(context.Context) error, error) {
	turns := 0
	return func(ctx context.Context) error {
		turns++
		return parallel(ctx, clients, turnRequests, func(ctx context.Context, worker, i int) error {
			_, err := s.client.drain(ctx, worker, call{method: http.MethodPost, path: inNamespace("configmaps"), body: configMap(fmt.Sprintf("cm-%d-%d", turns, i), "", "c")})
			return err
		})
	}, nil
}

func listTurn(accept string) func(context.Context, *stage) (func(context.Context) error, error) {
	return func(ctx context.Context, s *stage) (func(context.Context) error, error) {
		if err := s.makePods(ctx, listPods); err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			for range turnLists {
				if _, err := s.client.drain(ctx, 0, call{method: http.MethodGet, path: inNamespace("pods"), accept: accept}); err != nil {
					return err
				}
			}
			return nil
		}, nil
	}
}

// against has two binaries take turns and reports what one costs of the other. Both meet the same minutes: figures of single runs differ by a third on a machine that others use,
// these by a few percent.
func (b *bench) against(ctx context.Context, c comparison) error {
	return c.open(ctx, b, b.bin, func(own measure) error {
		return c.open(ctx, b, b.opt.against, func(other measure) error {
			var ours, theirs []float64
			for i := range b.opt.turns + 1 {
				both := []measure{own, other}
				got := make([]float64, 2)
				for k := range both {
					which := (i + k) % 2 // who goes first changes
					var err error
					if got[which], err = both[which](ctx); err != nil {
						return err
					}
				}
				b.say("%s: turn %d of %d: %s and %s %s", c.name, i, b.opt.turns, number(got[0]), number(got[1]), c.unit)
				if i > 0 { // the first is for warming up
					ours, theirs = append(ours, got[0]), append(theirs, got[1])
				}
			}
			mean, deviation := ratios(ours, theirs)
			b.out.figure(figure{Name: c.name, Value: average(ours), Unit: c.unit})
			b.out.figure(figure{Name: "the other's", Value: average(theirs), Unit: c.unit})
			b.out.figure(figure{Name: "of the other's", Value: mean, Unit: "", Detail: fmt.Sprintf("± %.3f, geometric mean of %d turns", deviation, b.opt.turns)})
			return nil
		})
	})
}

func average(values []float64) float64 {
	total := 0.0
	for _, v := range values {
		total += v
	}
	return total / float64(max(len(values), 1))
}

// ratios is the geometric mean of a[i]/b[i] and its standard error.
func ratios(a, b []float64) (mean, deviation float64) {
	logs := make([]float64, len(a))
	for i := range a {
		logs[i] = math.Log(a[i] / b[i])
	}
	center := average(logs)
	square := 0.0
	for _, l := range logs {
		square += (l - center) * (l - center)
	}
	n := float64(len(logs))
	mean = math.Exp(center)
	return mean, mean * math.Sqrt(square/max(n-1, 1)/max(n, 1))
}
