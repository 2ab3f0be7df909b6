package proxy

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

// memory is a datapath that remembers.
type memory struct {
	mu       sync.Mutex
	has      change
	replaced int
	fail     error
	intact   bool
	closed   bool
}

func (m *memory) Replace(all map[Key]*Frontend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	m.replaced++
	m.intact = true
	m.has = maps.Clone(all)
	return nil
}

func (m *memory) Update(changed map[Key]*Frontend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for k, f := range changed {
		if f == nil {
			delete(m.has, k)
		} else {
			m.has[k] = f
		}
	}
	return nil
}

func (m *memory) Intact() (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.intact, nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// look returns what the datapath has and how often it was made anew.
func (m *memory) look() (string, int) {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return show(m.has), m.replaced
}

func TestProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		here := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}}
		api := fake.NewClientset(here, service(nil), slicesOf(ep(1, "here", "rs", "zone:a"), ep(2, "there", "rs", "zone:b")))
		f := informers.New(api)
		m := &memory{}
		tampering := make(chan struct{}, 1)
		p, err := New(Config{NodeName: "here", Informers: f, Datapath: m, Tampering: tampering, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		f.StartWithContext(ctx)
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		expect := func(want string, replaced int) {
			t.Helper()
			if got, n := m.look(); got != want || n != replaced {
				t.Errorf("got:\n%s\nwant:\n%s\nmade anew %d times, want %d", got, want, n, replaced)
			}
		}
		<-p.Working()
		expect("TCP 10.0.0.1:80 → 1 2", 1)
		slices := api.DiscoveryV1().EndpointSlices("ns")
		update := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		zoned := here.DeepCopy()
		zoned.Labels = map[string]string{corev1.LabelTopologyZone: "b"}
		_, err = api.CoreV1().Nodes().Update(ctx, zoned, metav1.UpdateOptions{})
		update(err)
		expect("TCP 10.0.0.1:80 → 2", 1)
		_, err = slices.Update(ctx, slicesOf(ep(3, "here", "rs")), metav1.UpdateOptions{})
		update(err)
		expect("TCP 10.0.0.1:80 → 3", 1)
		// Another service takes the slice over.
		moved := slicesOf(ep(3, "here", "rs"))
		moved.Labels = map[string]string{"kubernetes.io/service-name": "other"}
		_, err = slices.Update(ctx, moved, metav1.UpdateOptions{})
		update(err)
		expect("TCP 10.0.0.1:80 →", 1)
		// Somebody removes the rules, or only something that is not ours.
		tampering <- struct{}{}
		expect("TCP 10.0.0.1:80 →", 1)
		m.mu.Lock()
		m.intact, m.has = false, change{}
		m.mu.Unlock()
		tampering <- struct{}{}
		expect("TCP 10.0.0.1:80 →", 2)
		// The kernel says no for a while.
		m.mu.Lock()
		m.fail = errors.New("no")
		m.mu.Unlock()
		_, err = slices.Update(ctx, slicesOf(ep(4, "here", "rs")), metav1.UpdateOptions{})
		update(err)
		expect("TCP 10.0.0.1:80 →", 2)
		m.mu.Lock()
		m.fail = nil
		m.mu.Unlock()
		time.Sleep(time.Minute)
		expect("TCP 10.0.0.1:80 → 4", 3)
		update(api.CoreV1().Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}))
		expect("", 3)
		cancel()
		if err := <-done; err != nil || !m.closed {
			t.Error(err, m.closed)
		}
		f.Shutdown()
	})
}
