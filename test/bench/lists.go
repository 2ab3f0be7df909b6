package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	pagesMethod = "10,000 pods with a scheduling gate, JSON, one client, 10 times each: the whole list, and the same in pages of 500. CPU time of the server for all of it, after a first time. The table " +
		"that kubectl asks for, of 5,000 of them."
	bigListsMethod = "1,000 ConfigMaps of 100 KB; 10 clients list them at once, in JSON and then in protobuf. Memory is the most that the server's resident memory has grown by meanwhile; it had settled before."

	pagedPods  = 10000
	pageSize   = 500
	pagedTimes = 10
	tablePods  = 5000
	bigMaps    = 1000
	bigMap     = 100 << 10
	bigLists   = 10

	typeTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
)

func pages(ctx context.Context, b *bench) error {
	return b.onStage("pages", func(s *stage) error {
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		b.say("pages: making %d pods", pagedPods)
		if err := s.makePods(ctx, pagedPods); err != nil {
			return err
		}
		whole, err := s.perTime(pagedTimes, func() error {
			_, err := s.client.drain(ctx, 0, call{method: http.MethodGet, path: inNamespace("pods")})
			return err
		})
		if err != nil {
			return err
		}
		paged, err := s.perTime(pagedTimes, func() error { return s.client.pages(ctx, inNamespace("pods"), pageSize) })
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "10,000 pods at once", Value: whole, Unit: "ms CPU"})
		b.out.figure(figure{Name: "in pages of 500", Value: paged, Unit: "ms CPU", Target: whole})
		table, err := s.perTime(pagedTimes, func() error {
			_, err := s.client.drain(ctx, 0, call{method: http.MethodGet, path: inNamespace(fmt.Sprint("pods?limit=", tablePods)), accept: typeTable})
			return err
		})
		if err != nil {
			return err
		}
		b.out.figure(figure{Name: "table of 5,000 pods", Value: table, Unit: "ms CPU"})
		return nil
	}, "--disable-node")
}

// perTime is the CPU time of the cluster for one of n calls of f, in milliseconds, after a first one.
func (s *stage) perTime(n int, f func() error) (float64, error) {
	var before time.Duration
	for i := range n + 1 {
		if i == 1 {
			var err error
			if before, err = s.cluster.cpu(); err != nil {
				return 0, err
			}
		}
		if err := f(); err != nil {
			return 0, err
		}
	}
	after, err := s.cluster.cpu()
	return milliseconds(after-before) / float64(n), err
}

// pages reads a list page by page.
func (c *client) pages(ctx context.Context, path string, size int) error {
	token := ""
	for {
		data, err := c.do(ctx, 0, call{method: http.MethodGet, path: fmt.Sprintf("%s?limit=%d&continue=%s", path, size, url.QueryEscape(token))})
		if err != nil {
			return err
		}
		// A list's metadata comes first: reading all of it would cost more than serving it.
		_, rest, ok := strings.Cut(string(data[:min(len(data), 1<<10)]), `"metadata":`)
		var meta struct{ Continue string }
		if !ok || json.NewDecoder(strings.NewReader(rest)).Decode(&meta) != nil {
			return fmt.Errorf("a page begins with %.200s", data)
		}
		if token = meta.Continue; token == "" {
			return nil
		}
	}
}

func bigListMemory(ctx context.Context, b *bench) error {
	for _, way := range []struct{ name, accept string }{{"JSON", typeJSON}, {"protobuf", typeProtobuf}} {
		err := b.onStage("big-lists", func(s *stage) error {
			if err := s.client.makeNamespace(ctx); err != nil {
				return err
			}
			b.say("big-lists: making %d ConfigMaps", bigMaps)
			fill := strings.Repeat("b", bigMap)
			err := parallel(ctx, clients, bigMaps, func(ctx context.Context, worker, i int) error {
				body := encode(object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": fmt.Sprintf("big-%d", i)}, "data": object{"payload": fill}})
				_, err := s.client.drain(ctx, worker, call{method: http.MethodPost, path: inNamespace("configmaps"), body: body})
				return err
			})
			if err != nil {
				return err
			}
			if _, err := s.settled(ctx); err != nil {
				return err
			}
			before, err := s.cluster.resident("VmRSS:")
			if err != nil {
				return err
			}
			if err := s.cluster.forgetPeak(); err != nil {
				return err
			}
			used, err := s.cluster.cpu()
			if err != nil {
				return err
			}
			sizes := make([]int64, bigLists)
			err = parallel(ctx, bigLists, bigLists, func(ctx context.Context, worker, i int) (err error) {
				sizes[i], err = s.client.drain(ctx, worker, call{method: http.MethodGet, path: inNamespace("configmaps"), accept: way.accept})
				return err
			})
			if err != nil {
				return err
			}
			peak, err := s.cluster.resident("VmHWM:")
			if err != nil {
				return err
			}
			after, err := s.cluster.cpu()
			if err != nil {
				return err
			}
			b.out.figure(figure{Name: "10 lists of 100 MB, " + way.name, Value: float64(peak-before) / 1e6, Unit: "MB", Target: 150,
				Detail: fmt.Sprintf("%.0f MB each; %.0f ms of CPU for each", float64(sum(sizes))/bigLists/1e6, milliseconds(after-used)/bigLists)})
			return nil
		}, "--disable-node")
		if err != nil {
			return err
		}
	}
	return nil
}

// resident is a line of the server's /proc/PID/status in bytes.
func (c cluster) resident(key string) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		return 0, err
	}
	n, err := keyed(string(data), key)
	return n << 10, err
}

// forgetPeak has the kernel measure the server's peak memory anew (proc_pid_clear_refs(5)).
func (c cluster) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid), []byte("5"), 0)
}
