package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky is a client that can be cut off, and that answers late.
type flaky struct {
	coordinationclient.LeaseInterface
	cut   atomic.Bool
	calm  atomic.Bool // no delays any more
	delay func() time.Duration
}

func (f *flaky) fault(ctx context.Context) error {
	if f.delay != nil && !f.calm.Load() && !pause(ctx, f.delay()) {
		return ctx.Err()
	}
	if f.cut.Load() {
		return errors.New("cut off")
	}
	return nil
}

func (f *flaky) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	return f.LeaseInterface.Get(ctx, name, o)
}

func (f *flaky) Update(ctx context.Context, l *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	got, err := f.LeaseInterface.Update(ctx, l, o)
	if late := f.fault(ctx); late != nil { // written, but nobody hears of it
		return nil, late
	}
	return got, err
}

func (f *flaky) Create(ctx context.Context, l *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	if err := f.fault(ctx); err != nil {
		return nil, err
	}
	return f.LeaseInterface.Create(ctx, l, o)
}

// court watches who leads.
type court struct {
	t       *testing.T
	mu      sync.Mutex
	leader  string // guarded by mu
	reigns  int    // guarded by mu
	clients map[string]*flaky
	stop    map[string]func()
	running sync.WaitGroup
}

func (c *court) run(e *controllertest.Env, name string, delay func() time.Duration) {
	client := &flaky{LeaseInterface: e.Client.CoordinationV1().Leases("default"), delay: delay}
	c.clients[name] = client
	ctx, cancel := context.WithCancel(context.Background())
	c.stop[name] = cancel
	c.running.Go(func() {
		err := Run(ctx, Config{Leases: client, Name: "l", Identity: name, Log: slog.New(slog.DiscardHandler), Lead: func(ctx context.Context) error {
			c.mu.Lock()
			if c.leader != "" {
				c.t.Errorf("%s leads while %s does", name, c.leader)
			}
			c.leader = name
			c.reigns++
			c.mu.Unlock()
			<-ctx.Done()
			time.Sleep(time.Second) // what is led needs a moment to end
			c.mu.Lock()
			c.leader = ""
			c.mu.Unlock()
			return ctx.Err()
		}})
		if err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
}

func (c *court) now() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader
}

func hold(t *testing.T, f func(c *court, e *controllertest.Env)) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.Start(t)
		c := &court{t: t, clients: map[string]*flaky{}, stop: map[string]func(){}}
		f(c, e)
		for _, stop := range c.stop {
			stop()
		}
		c.running.Wait()
	})
}

func TestStandbyTakesOver(t *testing.T) {
	hold(t, func(c *court, e *controllertest.Env) {
		c.run(e, "a", nil)
		if got := c.now(); got != "a" {
			t.Fatalf("%q leads", got)
		}
		c.run(e, "b", nil)
		time.Sleep(time.Minute)
		if got := c.now(); got != "a" {
			t.Fatalf("%q leads, though a is well", got)
		}
		lease, err := e.Client.CoordinationV1().Leases("default").Get(context.Background(), "l", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if s := lease.Spec; *s.HolderIdentity != "a" || *s.LeaseDurationSeconds != 15 || *s.LeaseTransitions != 0 || time.Since(s.RenewTime.Time) > retryPeriod || s.AcquireTime.Equal(s.RenewTime) {
			t.Errorf("lease %+v", s)
		}
		c.clients["a"].cut.Store(true)
		time.Sleep(leaseDuration + 2*retryPeriod)
		if got := c.now(); got != "b" {
			t.Errorf("%q leads after a lease", got)
		}
		c.clients["a"].cut.Store(false)
		time.Sleep(time.Minute)
		if got := c.now(); got != "b" {
			t.Errorf("%q leads: a takes it back", got)
		}
		c.stop["b"]() // who goes in order lets the next one in at once
		time.Sleep(time.Second + retryPeriod)
		if got := c.now(); got != "a" {
			t.Errorf("%q leads after b has gone", got)
		}
	})
}

// A leader that goes while its renewal is under way does not know of the newest state of the lease, and gives it up all the same.
func TestReleaseAfterALostAnswer(t *testing.T) {
	hold(t, func(c *court, e *controllertest.Env) {
		var late atomic.Bool
		c.run(e, "a", func() time.Duration {
			if late.Load() {
				return 1500 * time.Millisecond
			}
			return 0
		})
		if got := c.now(); got != "a" {
			t.Fatalf("%q leads", got)
		}
		late.Store(true) // from the renewal after 2 s on: it is written after 3.5 s, and answered after 5
		time.Sleep(4 * time.Second)
		c.clients["a"].calm.Store(true)
		c.stop["a"]()
		time.Sleep(2 * time.Second)
		lease, err := e.Client.CoordinationV1().Leases("default").Get(context.Background(), "l", metav1.GetOptions{})
		if err != nil || ptr.Deref(lease.Spec.HolderIdentity, "") != "" {
			t.Errorf("the lease is not given up: %+v, %v", lease, err)
		}
	})
}

func TestWhatIsLedFails(t *testing.T) {
	hold(t, func(c *court, e *controllertest.Env) {
		broken := errors.New("broken")
		err := Run(context.Background(), Config{Leases: e.Client.CoordinationV1().Leases("default"), Name: "l", Identity: "a", Log: slog.New(slog.DiscardHandler), Lead: func(context.Context) error { return broken }})
		if !errors.Is(err, broken) {
			t.Error(err)
		}
		lease, err := e.Client.CoordinationV1().Leases("default").Get(context.Background(), "l", metav1.GetOptions{})
		if err != nil || ptr.Deref(lease.Spec.HolderIdentity, "") != "" {
			t.Errorf("the lease is not given up: %+v, %v", lease, err)
		}
	})
}

// Three candidates whose connections come and go, answers late: never two at once (court complains), and somebody leads when all is well.
func TestNeverTwo(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			hold(t, func(c *court, e *controllertest.Env) {
				rnd, late := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
				var mu sync.Mutex // guards late
				delay := func() time.Duration {
					mu.Lock()
					defer mu.Unlock()
					if late.IntN(20) > 0 {
						return 0
					}
					return time.Duration(late.Int64N(int64(20 * time.Second)))
				}
				names := []string{"a", "b", "c"}
				for _, n := range names {
					c.run(e, n, delay)
				}
				for range 100 {
					time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Second))))
					c.clients[names[rnd.IntN(3)]].cut.Store(rnd.IntN(2) == 0)
				}
				for _, n := range names {
					c.clients[n].cut.Store(false)
					c.clients[n].calm.Store(true)
				}
				time.Sleep(2 * time.Minute)
				leader := c.now()
				c.mu.Lock()
				defer c.mu.Unlock()
				if leader == "" || c.reigns < 5 {
					t.Errorf("%q leads, after %d reigns", leader, c.reigns)
				}
			})
		})
	}
}
