package resourcemetrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
)

// machines are nodes that use half a core, and pods that use a quarter of one each.
type machines struct {
	mu    sync.Mutex // guards the rest
	nodes []*corev1.Node
	pods  []*corev1.Pod
	// broken nodes answer with an error, hanging ones never.
	broken, hanging map[string]bool
	reads           int
	began           time.Time
	started         map[string]time.Time // of pods, if not long ago
}

func newMachines(names ...string) *machines {
	m := &machines{broken: map[string]bool{}, hanging: map[string]bool{}, started: map[string]time.Time{}, began: time.Now()}
	for _, n := range names {
		m.nodes = append(m.nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{"n": n}},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
		})
	}
	return m
}

func (m *machines) place(namespace, name, node string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pods = append(m.pods, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{NodeName: node},
	})
}

func (m *machines) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

func (m *machines) Nodes(context.Context) ([]*corev1.Node, error) { return m.nodes, nil }

func (m *machines) Read(ctx context.Context, node, path string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if path != "/metrics/resource" {
		return nil, fmt.Errorf("asked for %s", path)
	}
	if m.broken[node] {
		return nil, errors.New("broken")
	}
	if m.hanging[node] {
		m.mu.Unlock()
		<-ctx.Done()
		m.mu.Lock()
		return nil, ctx.Err()
	}
	now := time.Now()
	up := now.Sub(m.began).Seconds() + 1000
	out := fmt.Sprintf("node_cpu_usage_seconds_total %f %d\nnode_memory_working_set_bytes 1048576\n", up/2, now.UnixMilli())
	for _, p := range m.pods {
		if p.Spec.NodeName != node {
			continue
		}
		start := m.began.Add(-1000 * time.Second)
		if s, ok := m.started[p.Name]; ok {
			start = s
		}
		labels := fmt.Sprintf(`{container="c",namespace=%q,pod=%q}`, p.Namespace, p.Name)
		out += fmt.Sprintf("container_cpu_usage_seconds_total%s %f %d\ncontainer_memory_working_set_bytes%s 2097152\ncontainer_start_time_seconds%s %f\n",
			labels, now.Sub(start).Seconds()/4, now.UnixMilli(), labels, labels, float64(start.UnixNano())/1e9)
	}
	return []byte(out), nil
}

func (m *machines) Node(_ context.Context, name string) (*corev1.Node, error) {
	for _, n := range m.nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name)
}

func (m *machines) Pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pods {
		if p.Namespace == namespace && p.Name == name {
			return p, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
}

func (m *machines) Pods(_ context.Context, namespace string) ([]*corev1.Pod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*corev1.Pod
	for _, p := range m.pods {
		if namespace == "" || p.Namespace == namespace {
			out = append(out, p)
		}
	}
	return out, nil
}

// collecting runs f in virtual time with a collector of m.
func collecting(t *testing.T, f func(ctx context.Context, c *Collector, m *machines)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachines("a", "b")
		c := NewCollector(m, clock.RealClock{}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		f(ctx, c, m)
		cancel()
		running.Wait()
	})
}

func ask(ctx context.Context, t *testing.T, c *Collector) map[string]*pair {
	t.Helper()
	out, err := c.usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNobodyAsksNothingIsRead(t *testing.T) {
	collecting(t, func(_ context.Context, _ *Collector, m *machines) {
		time.Sleep(24 * time.Hour)
		if m.count() != 0 {
			t.Errorf("%d readings", m.count())
		}
	})
}

func TestReadingsEndWithTheQuestions(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		for range 3 {
			start, before := time.Now(), m.count()
			got := ask(ctx, t, c)
			if u, ok := got["a"].node(); !ok || u.nanocores < 499_000_000 || u.nanocores > 501_000_000 || u.bytes != 1<<20 || u.window != firstGap {
				t.Errorf("the first answer: %+v, %t", u, ok)
			}
			if took := time.Since(start); took != firstGap {
				t.Errorf("the first answer took %v", took)
			}
			ask(ctx, t, c) // at once
			if took := time.Since(start); took != firstGap {
				t.Errorf("the second answer took %v in all", took)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			// Two at first, then every 15 s for a minute, and one that finds nobody.
			if n := m.count() - before; n != 2*(2+5) {
				t.Errorf("%d readings of two nodes in an hour with one question", n)
			}
		}
	})
}

func TestReadingsGoOnWithTheQuestions(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		for range 240 {
			ask(ctx, t, c)
			time.Sleep(resolution)
		}
		synctest.Wait()
		if n := m.count(); n < 2*240 || n > 2*244 {
			t.Errorf("%d readings of two nodes in an hour", n)
		}
		if u, ok := ask(ctx, t, c)["b"].node(); !ok || u.window != resolution {
			t.Errorf("got %+v, %t", u, ok)
		}
	})
}

func TestManyAskAtOnce(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got := ask(ctx, t, c); len(got) != 2 {
					t.Errorf("got %v", got)
				}
			})
		}
		all.Wait()
		if n := m.count(); n != 4 {
			t.Errorf("%d readings", n)
		}
	})
}

func TestNodesThatDoNotAnswer(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		m.mu.Lock()
		m.broken["a"] = true
		m.mu.Unlock()
		if got := ask(ctx, t, c); got["a"] != nil || got["b"] == nil {
			t.Errorf("a broken node: %v", got)
		}
		m.mu.Lock()
		m.broken["a"], m.hanging["b"] = false, true
		m.mu.Unlock()
		time.Sleep(resolution + timeout + time.Second)
		synctest.Wait()
		got := ask(ctx, t, c)
		if got["a"] == nil || got["b"] != nil {
			t.Errorf("a hanging node: %v", got)
		}
		if _, ok := got["a"].node(); ok {
			t.Error("one reading of a node is enough")
		}
		time.Sleep(2 * resolution)
		synctest.Wait()
		if _, ok := ask(ctx, t, c)["a"].node(); !ok {
			t.Error("two readings of a node are not enough")
		}
	})
}

func TestNodesThatAreNotReadyAreNotAsked(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		m.nodes[0].Status.Conditions[0].Status = corev1.ConditionUnknown
		if got := ask(ctx, t, c); len(got) != 1 || m.count() != 2 {
			t.Errorf("got %v after %d readings", got, m.count())
		}
	})
}

func TestWhoGoesAwayIsNotWaitedFor(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, _ *machines) {
		short, cancel := context.WithTimeout(ctx, firstGap/2)
		defer cancel()
		if _, err := c.usage(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
