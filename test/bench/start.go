package main

import (
	"context"
	"crypto/tls"
	"debug/elf"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	coldStartMethod = "An empty directory, the binary in the page cache; from just before exec until a client's GET /readyz is answered 200, and until its watch shows " +
		"the node Ready. Median of all runs."
	idleMethod = "One node, no pods, settled for 20 s. Memory: Pss in /proc/PID/smaps_rollup of the server and of the process that holds the containers, summed, at the end. " +
		"CPU: utime and stime in /proc/PID/stat. Written: write_bytes in /proc/PID/io."
	binaryMethod = "The size of the file."

	startLimit = time.Minute      // of one cold start
	settleTime = 20 * time.Second // until an idle cluster is looked at
	// pollEvery is how often a start is looked at while nothing listens, and thus how exact the time is.
	pollEvery = 2 * time.Millisecond
)

// started is what one cold start took.
type started struct{ api, node, cpu time.Duration }

func coldStart(ctx context.Context, b *bench) error {
	var api, node, cpu []time.Duration
	for i := range b.opt.runs {
		b.say("cold-start: %d of %d", i+1, b.opt.runs)
		s, err := b.startOnce(ctx)
		if err != nil {
			return err
		}
		api, node, cpu = append(api, s.api), append(node, s.node), append(cpu, s.cpu)
	}
	spread := func(d []time.Duration) string {
		return fmt.Sprintf("median of %d, %.0f to %.0f ms", len(d), milliseconds(quantile(d, 0)), milliseconds(quantile(d, 1)))
	}
	b.out.figure(figure{Name: "API ready", Value: quantile(api, 0.5).Seconds(), Unit: "s", Target: 0.7, Upstream: 3.0, Detail: spread(api)})
	b.out.figure(figure{Name: "node Ready", Value: quantile(node, 0.5).Seconds(), Unit: "s", Target: 1.0, Upstream: 3.4, Detail: spread(node)})
	b.out.figure(figure{Name: "CPU until the node is Ready", Value: quantile(cpu, 0.5).Seconds(), Unit: "s CPU", Detail: spread(cpu)})
	return nil
}

// startOnce starts a server on an empty directory and watches it come up.
func (b *bench) startOnce(ctx context.Context) (s started, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	const name = "cold"
	m, err := machine.New(name)
	if err != nil {
		return s, err
	}
	ended := make(chan error, 1)
	// The server has ended or is up when Start returns: only then can the machine be removed.
	defer func() { err = errors.Join(err, <-ended, m.Remove()) }()
	begin := time.Now()
	go func() { ended <- m.Start() }()

	if err := awaitReadyz(ctx, m); err != nil {
		return s, err
	}
	s.api = time.Since(begin)
	for {
		if _, err := os.Stat(m.Kubeconfig()); err == nil {
			break
		}
		if err := pause(ctx, pollEvery); err != nil {
			return s, fmt.Errorf("wait for %s: %w", filepath.Base(m.Kubeconfig()), err)
		}
	}
	if err := awaitNode(ctx, m, name); err != nil {
		return s, err
	}
	s.node = time.Since(begin)
	c := cluster{pid: m.Pid(), dataDir: m.DataDir}
	if s.cpu, err = c.cpu(); err != nil {
		return s, err
	}
	return s, nil
}

// awaitReadyz asks as an anonymous client, which may ask for health only.
func awaitReadyz(ctx context.Context, m *machine.Machine) error {
	transport := &http.Transport{DialContext: m.NS.Dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // its CA is not there yet
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:6443/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := hc.Do(req)
		if err == nil {
			_ = resp.Body.Close() // only the status is asked for
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		last = err
		if err := pause(ctx, pollEvery); err != nil {
			return fmt.Errorf("/readyz: %w", errors.Join(last, err))
		}
	}
}

// awaitNode watches until the node is Ready.
func awaitNode(ctx context.Context, m *machine.Machine, name string) error {
	client, err := m.Client()
	if err != nil {
		return err
	}
	w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return fmt.Errorf("watch the node: %w", err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if !ok || event.Type == watch.Deleted {
			continue
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
	}
	return errors.Join(errors.New("the watch ended before the node was Ready"), ctx.Err())
}

// pause sleeps unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func idle(ctx context.Context, b *bench) error {
	return b.onStage("idle", func(s *stage) error {
		s.client.close()
		if err := pause(ctx, settleTime); err != nil {
			return err
		}
		cpu, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		written, err := s.cluster.written()
		if err != nil {
			return err
		}
		b.say("idle: looking for %s", b.opt.idle)
		if err := pause(ctx, b.opt.idle); err != nil {
			return err
		}
		cpuAfter, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		writtenAfter, err := s.cluster.written()
		if err != nil {
			return err
		}
		pss, err := s.cluster.pss()
		if err != nil {
			return err
		}
		var parts []string
		for _, n := range pss {
			parts = append(parts, fmt.Sprintf("%.1f", float64(n)/1e6))
		}
		during := "in " + b.opt.idle.String()
		b.out.figure(figure{Name: "memory (Pss)", Value: float64(sum(pss)) / 1e6, Unit: "MB", Target: 80, Upstream: 424, Detail: "by process: " + strings.Join(parts, " + ")})
		b.out.figure(figure{Name: "CPU", Value: 100 * float64(cpuAfter-cpu) / float64(b.opt.idle), Unit: "% of 1", Target: 0.2, Upstream: 3.7,
			Detail: fmt.Sprintf("%d ms %s", (cpuAfter - cpu).Milliseconds(), during)})
		b.out.figure(figure{Name: "written to disk", Value: float64(sum(writtenAfter) - sum(written)), Unit: bytesUnit, Detail: during})
		return nil
	})
}

func binary(_ context.Context, b *bench) error {
	info, err := os.Stat(b.bin)
	if err != nil {
		return err
	}
	f, err := elf.Open(b.bin)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	detail := "stripped"
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil || f.Section(".zdebug_info") != nil {
		detail = "not stripped: a release is smaller"
	}
	b.out.figure(figure{Name: "size", Value: float64(info.Size()) / 1e6, Unit: "MB", Target: 110, Upstream: 110, Detail: detail})
	return nil
}
