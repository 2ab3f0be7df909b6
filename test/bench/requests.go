package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const (
	requestsMethod = "A control plane with the embedded etcd; 16 clients on 16 HTTP/2 connections, no client-side limit, JSON without compression. CPU time of the server over the " +
		"number of requests. Update carries a resourceVersion, apply is the first by its manager, the pod has a scheduling gate."
	listMethod = "5,000 pods with a scheduling gate in one namespace, unpaged and uncompressed, one client. CPU time of the server over the number of lists, after a first one, which is " +
		"given beside it."
	watchMethod = "200 watchers of one ConfigMap on 16 connections, JSON; 1,000 merge patches at 50 a second. CPU time of the server, that for the patches included, over all events that " +
		"all watchers have read."

	payload     = 1 << 10 // bytes of data in a ConfigMap
	gate        = "bench.celox.dev/hold"
	getRounds   = 5 // a get is too cheap to be seen in ticks of 10 ms
	listPods    = 5000
	lists       = 40
	watchers    = 200
	updates     = 1000
	updateEvery = time.Second / 50
	// deliveryLimit bounds the wait for the last events. It is no measurement.
	deliveryLimit = time.Minute
)

func configMap(name, version, fill string) []byte {
	meta := object{"name": name, "labels": object{"app": "bench"}}
	if version != "" {
		meta["resourceVersion"] = version
	}
	return encode(object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": object{"payload": strings.Repeat(fill, payload)}})
}

// perRequest has n requests sent by all clients and reports the server's CPU time for one.
func (b *bench) perRequest(ctx context.Context, s *stage, f figure, n int, send func(ctx context.Context, worker, i int) error) error {
	b.say("requests: %s", f.Name)
	before, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := parallel(ctx, clients, n, send); err != nil {
		return err
	}
	took := time.Since(begin)
	after, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	f.Value, f.Unit = milliseconds(after-before)/float64(n), "ms CPU"
	f.Detail = fmt.Sprintf("%d requests, %.0f a second", n, float64(n)/took.Seconds())
	b.out.figure(f)
	return nil
}

func requests(ctx context.Context, b *bench) error {
	return b.onStage("requests", func(s *stage) error {
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		n := b.opt.requests
		versions := make([]string, n)
		path := func(i int) string { return inNamespace("configmaps/" + fmt.Sprintf("cm-%d", i)) }
		one := func(make func(i int) call) func(context.Context, int, int) error {
			return func(ctx context.Context, worker, i int) error {
				_, err := s.client.drain(ctx, worker, make(i))
				return err
			}
		}
		for _, step := range []struct {
			figure
			n    int
			send func(ctx context.Context, worker, i int) error
		}{
			{figure{Name: "create", Target: 0.20, Upstream: 1.56}, n, func(ctx context.Context, worker, i int) error {
				got, err := s.client.do(ctx, worker, call{method: http.MethodPost, path: inNamespace("configmaps"), body: configMap(fmt.Sprintf("cm-%d", i), "", "c")})
				if err == nil {
					versions[i], err = resourceVersion(got)
				}
				return err
			}},
			{figure{Name: "get", Target: 0.06, Upstream: 0.72}, n * getRounds, one(func(i int) call { return call{method: http.MethodGet, path: path(i % n)} })},
			{figure{Name: "update", Target: 0.22, Upstream: 1.95}, n, one(func(i int) call {
				return call{method: http.MethodPut, path: path(i), body: configMap(fmt.Sprintf("cm-%d", i), versions[i], "u")}
			})},
			{figure{Name: "merge patch", Target: 0.28, Upstream: 1.84}, n, one(func(i int) call {
				return call{method: http.MethodPatch, path: path(i), contentType: typeMerge, body: encode(object{"data": object{"patched": fmt.Sprint(i)}})}
			})},
			{figure{Name: "apply", Target: 0.35, Upstream: 1.98}, n, one(func(i int) call {
				return call{method: http.MethodPatch, path: path(i) + "?fieldManager=bench-apply&force=true", contentType: typeApply, body: encode(object{
					"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": fmt.Sprintf("cm-%d", i)}, "data": object{"applied": fmt.Sprint(i)},
				})}
			})},
			{figure{Name: "delete", Target: 0.20, Upstream: 1.48}, n, one(func(i int) call { return call{method: http.MethodDelete, path: path(i)} })},
			{figure{Name: "create of a pod", Target: 0.35, Upstream: 2.2}, n, one(func(i int) call {
				return call{method: http.MethodPost, path: inNamespace("pods"), body: smallPod(fmt.Sprintf("pod-%d", i), gate)}
			})},
		} {
			if err := b.perRequest(ctx, s, step.figure, step.n, step.send); err != nil {
				return fmt.Errorf("%s: %w", step.Name, err)
			}
		}
		return nil
	}, "--disable-node")
}

func list(ctx context.Context, b *bench) error {
	return b.onStage("list", func(s *stage) error {
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		b.say("list: making %d pods", listPods)
		err := s.makePods(ctx, listPods)
		if err != nil {
			return err
		}
		for _, way := range []struct {
			figure
			accept, encoding string
		}{
			{figure{Name: "JSON", Target: 15, Upstream: 195}, typeJSON, ""},
			{figure{Name: "protobuf", Target: 10, Upstream: 125}, typeProtobuf, ""},
			{figure{Name: "JSON, gzip as kubectl asks"}, typeJSON, "gzip"},
		} {
			r := call{method: http.MethodGet, path: inNamespace("pods"), accept: way.accept, encoding: way.encoding}
			var marks [3]time.Duration // CPU time before the first list, after it, after all
			var size int64
			for i := range lists + 1 {
				if i < 2 {
					if marks[i], err = s.cluster.cpu(); err != nil {
						return err
					}
				}
				if size, err = s.client.drain(ctx, 0, r); err != nil {
					return err
				}
			}
			if marks[2], err = s.cluster.cpu(); err != nil {
				return err
			}
			way.Value, way.Unit = milliseconds(marks[2]-marks[1])/lists, "ms CPU"
			way.Detail = fmt.Sprintf("%d lists of %.1f MB; the first %.0f ms", lists, float64(size)/1e6, milliseconds(marks[1]-marks[0]))
			b.out.figure(way.figure)
		}
		return nil
	}, "--disable-node")
}

// makePods makes n pods that no scheduler looks at.
func (s *stage) makePods(ctx context.Context, n int) error {
	return parallel(ctx, clients, n, func(ctx context.Context, worker, i int) error {
		_, err := s.client.drain(ctx, worker, call{method: http.MethodPost, path: inNamespace("pods"), body: smallPod(fmt.Sprintf("pod-%d", i), gate)})
		return err
	})
}

// makeWatched makes the object that is watched.
func (s *stage) makeWatched(ctx context.Context) (version string, err error) {
	made, err := s.client.do(ctx, 0, call{method: http.MethodPost, path: inNamespace("configmaps"), body: configMap("watched", "", "w")})
	if err != nil {
		return "", err
	}
	return resourceVersion(made)
}

// watchedPath is that of a watch of it.
func watchedPath(version string) string {
	return inNamespace("configmaps?watch=true&fieldSelector=metadata.name%3Dwatched&resourceVersion=" + version)
}

func watchFanOut(ctx context.Context, b *bench) error {
	return b.onStage("watch-fan-out", func(s *stage) error {
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		if _, err := s.makeWatched(ctx); err != nil {
			return err
		}
		alone, err := s.patches(ctx)
		if err != nil {
			return err
		}
		got, err := s.client.do(ctx, 0, call{method: http.MethodGet, path: inNamespace("configmaps/watched")})
		if err != nil {
			return err
		}
		version, err := resourceVersion(got)
		if err != nil {
			return err
		}
		watching, stop := context.WithCancel(ctx)
		seen := make(chan error, watchers) // each watcher says when it has read all events
		begun := 0
		defer func() {
			stop()
			for range begun {
				<-seen
			}
		}()
		for i := range watchers {
			resp, err := s.client.open(watching, i, call{method: http.MethodGet, path: watchedPath(version)})
			if err != nil {
				return err
			}
			begun++
			go func() {
				err := readEvents(resp, updates)
				_ = resp.Body.Close() // the watch is given up, not ended
				seen <- err
			}()
		}
		b.say("watch-fan-out: %d updates", updates)
		before, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		begin := time.Now()
		if err := s.update(ctx, updates); err != nil {
			return err
		}
		limit := time.NewTimer(deliveryLimit)
		defer limit.Stop()
		for range watchers {
			select {
			case err := <-seen:
				begun--
				if err != nil {
					return err
				}
			case <-limit.C:
				return fmt.Errorf("%d watchers have not seen all events %s after the last update", begun, deliveryLimit)
			}
		}
		took := time.Since(begin)
		after, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "event to a watcher", Value: float64((after - before).Microseconds()) / (updates * watchers), Unit: "µs CPU", Target: 8, Upstream: 48,
			Detail: fmt.Sprintf("%d events to each of %d in %.1f s; the patches alone would be %.1f", updates, watchers, took.Seconds(), alone)})
		return nil
	}, "--disable-node")
}

// update patches the object that is watched n times, at the pace of the scenario.
func (s *stage) update(ctx context.Context, n int) error {
	begin := time.Now()
	for i := range n {
		if err := pause(ctx, time.Until(begin.Add(time.Duration(i)*updateEvery))); err != nil {
			return err
		}
		patch := call{method: http.MethodPatch, path: inNamespace("configmaps/watched"), contentType: typeMerge, body: encode(object{"data": object{"at": fmt.Sprint(i)}})}
		if _, err := s.client.drain(ctx, 0, patch); err != nil {
			return err
		}
	}
	return nil
}

// patches is what the patches of watch-fan-out cost without a watcher, in microseconds of CPU time for each event that there would be.
func (s *stage) patches(ctx context.Context) (float64, error) {
	const n = updates / 5
	before, err := s.cluster.cpu()
	if err != nil {
		return 0, err
	}
	if err := s.update(ctx, n); err != nil {
		return 0, err
	}
	after, err := s.cluster.cpu()
	return float64((after - before).Microseconds()) / (n * watchers), err
}

// readEvents reads n events, one to a line, and no more.
func readEvents(resp *http.Response, n int) error {
	buf := make([]byte, 16<<10)
	for seen := 0; seen < n; {
		read, err := resp.Body.Read(buf)
		seen += bytes.Count(buf[:read], []byte("\n"))
		if err != nil && seen < n {
			return fmt.Errorf("the watch ended after %d of %d events: %w", seen, n, err)
		}
	}
	return nil
}
