package world

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
)

// plan is what goes wrong. Its methods may be called from many goroutines.
type plan struct {
	mu sync.Mutex // guards all below
	// writes counts those that were carried out; after the crashAt'th the process is dead. 0 is never.
	writes, crashAt int
	// rnd is what random faults come from; nil is none.
	rnd *rand.Rand
	// record says what was written, for the message of a failure.
	record []string
	// refused are the writes that were refused once, by method and path; nil: none is.
	refused map[string]bool
}

// refuseOnce has each write be refused the first time, with a conflict.
func (p *plan) refuseOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = map[string]bool{}
}

// refuses says whether a write is to be refused now.
func (p *plan) refuses(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused == nil || p.refused[what] {
		return false
	}
	p.refused[what] = true
	return true
}

// arm has a process crash after the n'th write from now on.
func (p *plan) arm(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes, p.crashAt, p.record = 0, n, nil
}

// fired says that the crash has happened.
func (p *plan) fired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crashAt == 0
}

func (p *plan) count() (int, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes, p.record
}

// wrote counts a write, and says whether it was the last one.
func (p *plan) wrote(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	p.record = append(p.record, what)
	last := p.crashAt == p.writes
	if last {
		p.crashAt = 0
	}
	return last
}

// calm ends random faults.
func (p *plan) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rnd = nil
}

// one draws: true once in n.
func (p *plan) one(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rnd != nil && p.rnd.IntN(n) == 0
}

func (p *plan) span(most time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rnd == nil {
		return 0
	}
	return time.Duration(p.rnd.Int64N(int64(most)))
}

// process is one life of the controllers.
type process struct {
	plan    *plan
	inner   http.RoundTripper
	ctx     context.Context
	kill    context.CancelFunc
	running sync.WaitGroup
	factory *informers.Factory
	// registry is what its controllers count for.
	registry *prometheus.Registry
}

var errDead = errors.New("the process is dead")

// RoundTrip carries a request out, or not.
func (p *process) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.ctx.Err() != nil {
		return nil, errDead
	}
	write := r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "reviews")
	if p.plan.one(20) && !p.sleep(r.Context(), p.plan.span(2*time.Second)) {
		return nil, errDead
	}
	switch {
	case p.plan.one(25):
		return refuse(r, http.StatusInternalServerError, "InternalError"), nil
	case write && (p.plan.one(15) || p.plan.refuses(r.Method+" "+r.URL.Path)):
		return refuse(r, http.StatusConflict, "Conflict"), nil
	}
	res, err := p.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if write && res.StatusCode < 300 {
		if p.plan.wrote(r.Method + " " + r.URL.Path) {
			p.kill()
		}
		if p.ctx.Err() != nil {
			_ = res.Body.Close()
			return nil, errDead // the answer comes too late
		}
		if p.plan.one(25) { // done, but nobody hears of it
			_ = res.Body.Close()
			return refuse(r, http.StatusGatewayTimeout, "Timeout"), nil
		}
	}
	if r.URL.Query().Get("watch") != "" && res.StatusCode == http.StatusOK {
		res.Body = &frail{ReadCloser: res.Body, process: p, reads: -1}
		if p.plan.one(2) {
			res.Body.(*frail).reads = int(p.plan.span(30))
		}
	}
	return res, nil
}

func (p *process) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-p.ctx.Done():
	}
	return false
}

func refuse(r *http.Request, code int, reason string) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"injected","reason":%q,"code":%d}`, reason, code)
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// frail is the stream of a watch that is slow at times and breaks after some reads (never, if negative).
type frail struct {
	io.ReadCloser
	process *process
	reads   int
}

func (f *frail) Read(b []byte) (int, error) {
	if f.reads == 0 {
		_ = f.Close()
		return 0, io.ErrUnexpectedEOF
	}
	f.reads--
	n, err := f.ReadCloser.Read(b)
	if f.process.plan.one(10) {
		f.process.sleep(context.Background(), f.process.plan.span(10*time.Second))
	}
	return n, err
}

// boot starts the scheduler and the controllers, those that judge nodes if they are wanted: who hears late of heartbeats, or whose clock jumps, rightly
// believes that nodes are gone, and what it does then is not undone.
func boot(t *testing.T, e *controllertest.Env, p *plan, clk clock.WithTicker, nodes bool) *process {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, kill := context.WithCancel(context.Background())
	pr := &process{plan: p, ctx: ctx, kill: kill}
	cfg := rest.CopyConfig(e.API)
	pr.inner, cfg.Transport = e.API.Transport, pr
	c, err := kubernetes.NewForConfig(cfg)
	must(err)
	mc, err := metadata.NewForConfig(cfg)
	must(err)
	f := informers.New(c)
	pr.factory = f
	pr.registry = prometheus.NewRegistry()
	parts := &parts{t: t, env: e, c: c, meta: mc, f: f, clock: clk, log: slog.New(slog.DiscardHandler), m: controller.NewMetrics(pr.registry), registry: pr.registry}
	parts.workloads()
	parts.storage()
	parts.cluster(nodes)
	f.StartWithContext(ctx)
	for _, r := range parts.all {
		pr.running.Go(func() {
			if err := r.Run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("controller: %v", err)
			}
		})
	}
	return pr
}

// stop ends the process and waits for all of it.
func (p *process) stop() {
	p.kill()
	p.running.Wait()
	p.factory.Shutdown()
}

// skewed is a clock that somebody sets at times.
type skewed struct {
	clock.RealClock
	mu  sync.Mutex
	off time.Duration // guarded by mu
}

func (c *skewed) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = d
}

// Now returns the wrong time.
func (c *skewed) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.RealClock.Now().Add(c.off)
}

// Since is relative to the wrong time.
func (c *skewed) Since(at time.Time) time.Duration { return c.Now().Sub(at) }

var background = metav1.DeletePropagationBackground
