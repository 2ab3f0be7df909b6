package world

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/cronjob"
	"github.com/celox/celox/internal/controller/daemonset"
	"github.com/celox/celox/internal/controller/deployment"
	"github.com/celox/celox/internal/controller/disruption"
	"github.com/celox/celox/internal/controller/endpoints"
	"github.com/celox/celox/internal/controller/endpointslice"
	"github.com/celox/celox/internal/controller/garbagecollector"
	"github.com/celox/celox/internal/controller/job"
	"github.com/celox/celox/internal/controller/nodelifecycle"
	"github.com/celox/celox/internal/controller/podgc"
	"github.com/celox/celox/internal/controller/replicaset"
	"github.com/celox/celox/internal/controller/serviceaccount"
	"github.com/celox/celox/internal/controller/statefulset"
	"github.com/celox/celox/internal/controller/tainteviction"
	"github.com/celox/celox/internal/controller/ttlafterfinished"
	"github.com/celox/celox/internal/scheduler"
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
	case write && p.plan.one(15):
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
	body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"injected","reason":"` + reason + `","code":` + http.StatusText(code) + `}`
	body = strings.Replace(body, http.StatusText(code), map[int]string{409: "409", 500: "500", 504: "504"}[code], 1)
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

// runner is a controller.
type runner interface {
	Run(ctx context.Context) error
}

// boot starts the scheduler and the controllers, those that judge nodes if they are wanted: who hears late of heartbeats, or whose clock jumps, rightly
// believes that nodes are gone, and what it does then is not undone.
func boot(t *testing.T, e *controllertest.Env, p *plan, clk clock.Clock, nodes bool) *process {
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
	quiet := &record.FakeRecorder{}
	log := slog.New(slog.DiscardHandler)
	var all []runner
	add := func(r runner, err error) {
		t.Helper()
		must(err)
		all = append(all, r)
	}
	add(deployment.New(c, f, quiet, clk, log, nil))
	add(replicaset.New(c, f, quiet, clk, log, nil))
	add(statefulset.New(c, f, quiet, clk, log, nil))
	add(daemonset.New(c, f, quiet, clk, log, nil))
	add(job.New(c, f, quiet, clk, log, nil))
	add(cronjob.New(c, f, quiet, clk, log, nil))
	add(ttlafterfinished.New(c, f, clk, log, nil))
	add(disruption.New(c, f, disruption.NewWorkloads(f, nil), quiet, clk, log, nil))
	add(endpoints.New(c, f, log, nil))
	add(endpointslice.New(c, f, quiet, log, nil))
	add(serviceaccount.New(c, f, log, nil))
	add(podgc.New(c, f, clk, log, nil))
	if nodes {
		add(tainteviction.New(c, f, quiet, clk, log, nil))
		add(nodelifecycle.New(nodelifecycle.Config{Client: c, Informers: f, Recorder: quiet, Clock: clk, Log: log}))
	}
	add(garbagecollector.New(garbagecollector.Config{Metadata: mc, Log: log, Resources: collectable(f), Resolve: func(gvk schema.GroupVersionKind) (schema.GroupVersionResource, bool, bool) {
		k, _, ok := e.Catalogue.ByKind(gvk)
		if !ok {
			return schema.GroupVersionResource{}, false, false
		}
		return controllertest.Preferred(k), k.Namespaced, true
	}}))
	add(scheduler.New(scheduler.Config{Client: c, Informers: f, Recorder: &events.FakeRecorder{}, Log: log}))
	f.StartWithContext(ctx)
	for _, r := range all {
		pr.running.Go(func() {
			if err := r.Run(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("controller: %v", err)
			}
		})
	}
	return pr
}

func collectable(f *informers.Factory) []garbagecollector.Resource {
	of := func(group, version, resource string, i cache.SharedIndexInformer) garbagecollector.Resource {
		return garbagecollector.Resource{GVR: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Informer: i}
	}
	return []garbagecollector.Resource{
		of("", "v1", "pods", f.Core().V1().Pods().Informer()), of("", "v1", "services", f.Core().V1().Services().Informer()),
		of("", "v1", "endpoints", f.Core().V1().Endpoints().Informer()), of("discovery.k8s.io", "v1", "endpointslices", f.Discovery().V1().EndpointSlices().Informer()),
		of("apps", "v1", "deployments", f.Apps().V1().Deployments().Informer()), of("apps", "v1", "replicasets", f.Apps().V1().ReplicaSets().Informer()),
		of("apps", "v1", "statefulsets", f.Apps().V1().StatefulSets().Informer()), of("apps", "v1", "daemonsets", f.Apps().V1().DaemonSets().Informer()),
		of("apps", "v1", "controllerrevisions", f.Apps().V1().ControllerRevisions().Informer()),
		of("batch", "v1", "jobs", f.Batch().V1().Jobs().Informer()), of("batch", "v1", "cronjobs", f.Batch().V1().CronJobs().Informer()),
	}
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
