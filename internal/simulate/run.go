package simulate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/internal/client/informers"
)

const (
	// creators is how many objects are created at once: as many as in upstream's scheduler_perf.
	creators = 30
	// defaultPatience is how long nothing may happen while something is waited for.
	defaultPatience = 2 * time.Minute
)

// Config is what Run needs.
type Config struct {
	// API is how the API server is reached, with every right and without a rate limit.
	API *rest.Config
	// Send creates a pod at a path of the API for who doesn't read the answer; nil has API do it. It must not keep the pod.
	Send func(ctx context.Context, path string, obj runtime.Object) error
	// Informers makes what hollow nodes and measuring see pods by; nil has them watch API, and keep of each pod only what they need.
	Informers func(c kubernetes.Interface) *informers.Factory
	// Scenario is what is done, with Nodes nodes; 0 is as many as the scenario says.
	Scenario *Scenario
	Nodes    int
	// Progress is told what happens, a line at a time; nil is nobody.
	Progress func(format string, args ...any)
	// Patience is how long an operation may wait without any progress before it is given up; 0 is two minutes.
	Patience time.Duration
}

// simulation is one run.
type simulation struct {
	cfg      Config
	nodes    int
	client   kubernetes.Interface
	requests *requests
	pods     *pods
	hollow   *hollow // nil without kubelets
	sampler  *sampler
	report   *Report
	names    map[string]int // how many objects of a prefix there are
	group    sync.WaitGroup // what runs beside the operations
}

// Run carries out a scenario and measures it. The report is there even if the scenario couldn't be finished, if it was begun.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string, ...any) {}
	}
	cfg.Progress = (&guarded{to: cfg.Progress}).say
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	nodes := cfg.Nodes
	if nodes == 0 {
		nodes = cfg.Scenario.Nodes
	}
	if nodes < 1 || nodes > MaxNodes {
		return nil, fmt.Errorf("%d nodes: want 1 to %d", nodes, MaxNodes)
	}
	s := &simulation{cfg: cfg, nodes: nodes, requests: &requests{kinds: map[call]*kindOfCall{}}, names: map[string]int{}}
	api := rest.CopyConfig(cfg.API)
	api.QPS = -1
	api.Wrap(func(next http.RoundTripper) http.RoundTripper {
		s.requests.next = next
		return s.requests
	})
	var err error
	if s.client, err = kubernetes.NewForConfig(api); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	// What runs beside the operations uses a context of its own, so that it ends with them.
	beside, stop := context.WithCancel(ctx)
	defer s.group.Wait()
	defer stop()

	if cfg.Scenario.Kubelets {
		s.hollow = newHollow(s.client, cfg.Scenario)
	}
	s.pods = newPods(s.hollow)
	var f *informers.Factory
	if cfg.Informers != nil {
		f = cfg.Informers(s.client)
	} else {
		f = informers.New(s.client)
		if err := f.Core().V1().Pods().Informer().SetTransform(trim); err != nil {
			return nil, err
		}
	}
	informer := f.Core().V1().Pods()
	registration, err := informer.Informer().AddEventHandler(s.pods.handler())
	if err != nil {
		return nil, err
	}
	if s.hollow != nil {
		s.hollow.lister = informer.Lister()
		s.group.Go(func() { s.hollow.run(beside) })
	}
	f.StartWithContext(beside)
	defer func() {
		stop()
		f.Shutdown()
	}()
	select {
	case <-registration.HasSyncedChecker().Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.report = newReport(cfg.Scenario, nodes)
	s.sampler = newSampler(s.pods, s.requests)
	s.group.Go(func() { s.sampler.run(beside) })
	err = s.operations(ctx, beside)
	stop()
	s.group.Wait()
	s.report.finish(s)
	return s.report, err
}

// operations carries out everything. beside is the context of what goes on until the end.
func (s *simulation) operations(ctx, beside context.Context) error {
	for name, value := range s.cfg.Scenario.PriorityClasses {
		_, err := s.client.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("priority class %s: %w", name, err)
		}
	}
	if err := s.account(ctx, v1.NamespaceDefault); err != nil {
		return err
	}
	for i := range s.cfg.Scenario.Operations {
		o := &s.cfg.Scenario.Operations[i]
		begin, cpu := time.Now(), cpuTime()
		what, err := s.operation(ctx, beside, o)
		took := time.Since(begin)
		cpu = cpuTime() - cpu
		s.report.phase(o.name(), what, begin, took, cpu)
		if err != nil {
			return fmt.Errorf("operation %d, %s: %w", i, o.name(), err)
		}
		s.cfg.Progress("[%d/%d] %s %s in %.1f s, %.1f s of CPU", i+1, len(s.cfg.Scenario.Operations), o.name(), what, took.Seconds(), cpu.Seconds())
	}
	return nil
}

// operation carries out one, and says what it did.
func (s *simulation) operation(ctx, beside context.Context, o *Operation) (string, error) {
	switch {
	case o.CreateNodes != nil:
		return s.createNodes(ctx, o.CreateNodes)
	case o.CreateNamespaces != nil:
		return s.createNamespaces(ctx, o.CreateNamespaces)
	case o.CreateDevices != nil:
		return s.createDevices(ctx, o.CreateDevices)
	case o.CreatePods != nil:
		return s.createPods(ctx, o.CreatePods)
	case o.DeletePods != nil:
		return s.deletePods(ctx, o.DeletePods)
	case o.CreateDeployment != nil:
		return s.createDeployment(ctx, o.CreateDeployment)
	case o.ScaleDeployment != nil:
		return s.scaleDeployment(ctx, o.ScaleDeployment)
	case o.Churn != nil:
		s.group.Go(func() { s.churn(beside, o.Churn) })
		return "begun", nil
	case o.FailNodes != nil:
		return s.failNodes(beside, o.FailNodes)
	case o.Barrier != nil:
		return s.barrier(ctx, o.Barrier)
	default:
		select {
		case <-time.After(o.Sleep.For.Duration):
		case <-ctx.Done():
		}
		return o.Sleep.For.Duration.String(), ctx.Err()
	}
}

// each calls f for 0 to n-1, many at a time, no more than perSecond of them in a second if that isn't 0. The first error ends it.
func each(ctx context.Context, n, perSecond int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(creators, n) {
		wg.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	begin := time.Now()
	for i := 0; i < n && ctx.Err() == nil; i++ {
		if perSecond > 0 {
			if early := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond))); early > 0 {
				select {
				case <-time.After(early):
				case <-ctx.Done():
				}
			}
		}
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// errStuck is the cause of an operation that was given up.
var errStuck = errors.New("nothing has happened any more")

// until waits until done says so, which is asked after every change of a pod and once a second. state says how far things are.
func (s *simulation) until(ctx context.Context, done func() (bool, error), state func() string) error {
	lastState, lastChange := "", time.Now()
	said := time.Now()
	for {
		var ok bool
		var err error
		var now string
		changed := s.pods.now(func() { now = state() })
		if ok, err = done(); ok || err != nil {
			return err
		}
		if now != lastState {
			lastState, lastChange = now, time.Now()
		}
		if time.Since(lastChange) > s.cfg.Patience {
			var reason string
			s.pods.now(func() { reason = s.pods.reason })
			if reason != "" {
				reason = "; the last that fitted nowhere: " + reason
			}
			return fmt.Errorf("%w for %v: %s%s", errStuck, s.cfg.Patience, now, reason)
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			s.cfg.Progress("      %s", now)
		}
		select {
		case <-changed:
			// Not after each of thousands.
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// guarded lets several goroutines say something, one at a time.
type guarded struct {
	mu sync.Mutex
	to func(string, ...any)
}

func (g *guarded) say(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to(format, args...)
}
