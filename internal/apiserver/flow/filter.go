package flow

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/api/flowcontrol"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

const (
	// adjustEvery is how often levels lend and give back seats. It costs nothing while nobody asks.
	adjustEvery = 10 * time.Second
	// maxWait bounds how long a request waits for a seat; one with a deadline waits for a quarter of its time. defaultWait is for
	// requests without one.
	maxWait     = time.Minute
	defaultWait = 15 * time.Second
)

// Config is what a Filter is made of.
type Config struct {
	// Schemas and Levels are where the FlowSchemas and PriorityLevelConfigurations are.
	Schemas, Levels store.Reader
	// Seats is how many requests of width one the server serves at a time; 0 is 600.
	Seats   int
	Metrics prometheus.Registerer // nil: none
	Logger  *slog.Logger          // nil: silent
}

// Filter lets requests in. Its methods may be called from many goroutines.
type Filter struct {
	cfg     Config
	metrics *metrics
	schemas atomic.Pointer[[]*schema] // by precedence; the last one takes everybody

	mu       sync.Mutex // guards levels, fraction, timer, closed and the objects
	levels   map[string]*level
	fraction float64
	timer    *time.Timer
	closed   bool
	objects  objects

	adjusted atomic.Int64 // when levels were last adjusted, unix nanoseconds
}

// objects are the configuration as it was last read. Read-only.
type objects struct {
	schemas []*flowcontrolv1.FlowSchema
	levels  []*flowcontrolv1.PriorityLevelConfiguration
}

// New reads the configuration once; Run keeps it up to date.
func New(ctx context.Context, cfg Config) (*Filter, error) {
	if cfg.Seats == 0 {
		cfg.Seats = 600
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Filter{cfg: cfg, levels: map[string]*level{}, metrics: newMetrics()}
	f.adjusted.Store(time.Now().UnixNano())
	if cfg.Metrics != nil {
		if err := f.metrics.register(cfg.Metrics, f); err != nil {
			return nil, fmt.Errorf("priority and fairness: metrics: %w", err)
		}
	}
	if err := f.read(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// read takes over the configuration that the store holds now.
func (f *Filter) read(ctx context.Context) error {
	schemas, err := listOf[*flowcontrolv1.FlowSchema](ctx, f.cfg.Schemas)
	if err != nil {
		return fmt.Errorf("read flow schemas: %w", err)
	}
	levels, err := listOf[*flowcontrolv1.PriorityLevelConfiguration](ctx, f.cfg.Levels)
	if err != nil {
		return fmt.Errorf("read priority levels: %w", err)
	}
	f.configure(objects{schemas: schemas, levels: levels})
	return nil
}

func listOf[T store.Object](ctx context.Context, r store.Reader) ([]T, error) {
	l, err := r.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return nil, err
	}
	out := make([]T, 0, len(l.Items))
	for _, item := range l.Items {
		if o, ok := item.Object.(T); ok {
			out = append(out, o)
		}
	}
	return out, nil
}

// configure puts a new configuration in place. Requests that are under way keep their seats and their places in line.
func (f *Filter) configure(o objects) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects = o
	levels := slices.Clone(o.levels)
	for _, must := range flowcontrol.MandatoryLevels() {
		if !slices.ContainsFunc(levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == must.Name }) {
			levels = append(levels, must)
		}
	}
	portions := make([]portion, len(levels))
	wanted := map[string]bool{}
	for i, l := range levels {
		portions[i], wanted[l.Name] = portionOf(&l.Spec), true
	}
	for name, l := range f.levels {
		// A level that is gone lives on until its last request has left.
		if l.quiescing = !wanted[name]; l.quiescing && l.idle() {
			delete(f.levels, name)
		}
	}
	for i, c := range divide(f.cfg.Seats, portions) {
		o := levels[i]
		l := f.levels[o.Name]
		if l == nil {
			l = newLevel(o.Name, f.metrics, now)
			f.levels[o.Name] = l
		}
		l.uid = string(o.UID)
		l.configure(now, &o.Spec, c)
	}
	f.schemas.Store(f.compile(o.schemas))
}

// compile makes the schemas that name an existing level ready, in the order in which they are tried.
func (f *Filter) compile(in []*flowcontrolv1.FlowSchema) *[]*schema {
	in = slices.Clone(in)
	for _, must := range flowcontrol.MandatorySchemas() {
		if !slices.ContainsFunc(in, func(s *flowcontrolv1.FlowSchema) bool { return s.Name == must.Name }) {
			in = append(in, must)
		}
	}
	slices.SortFunc(in, byPrecedence)
	out := make([]*schema, 0, len(in)+1)
	var last *schema
	for _, o := range in {
		l := f.levels[o.Spec.PriorityLevelConfiguration.Name]
		if l == nil || l.quiescing {
			continue
		}
		s := newSchema(o, l)
		out = append(out, s)
		if o.Name == flowcontrolv1.FlowSchemaNameCatchAll {
			last = s
		}
	}
	if last == nil {
		last = out[len(out)-1] // validation does not let it come to this
	}
	// Whoever is in no group at all is treated like the rest.
	return new(append(out, last))
}

func portionOf(s *flowcontrolv1.PriorityLevelConfigurationSpec) portion {
	p := portion{borrow: -1}
	value := func(n *int32) int {
		if n == nil {
			return 0
		}
		return int(*n)
	}
	switch {
	case s.Limited != nil:
		p.shares, p.lendable = value(s.Limited.NominalConcurrencyShares), value(s.Limited.LendablePercent)
		if b := s.Limited.BorrowingLimitPercent; b != nil {
			p.borrow = int(*b)
		}
	case s.Exempt != nil:
		p.shares, p.lendable = value(s.Exempt.NominalConcurrencyShares), value(s.Exempt.LendablePercent)
	}
	return p
}

// The states of a ticket.
type state int8

const (
	outside state = iota
	waits
	sits
	stands
)

// Ticket is one request's way through the filter. The zero value is outside. It must not be copied, and belongs to the goroutine
// that serves the request.
type Ticket struct {
	width
	work      Work
	level     *level
	schema    *schema
	flow      *stats
	queue     *queue
	seats     int // while it sits
	state     state
	watch     bool
	hash      uint64
	by        string
	user      user.Info
	info      *request.Info
	arrived   time.Time
	started   time.Time
	arrivedAt float64 // virtual
	ready     chan struct{}
	left      bool

	prev, next *Ticket
}

// Headers returns the values of the headers that name the FlowSchema and the PriorityLevelConfiguration by their uids; nil for a ticket
// that is outside. Read-only.
func (t *Ticket) Headers() (schema, level []string) {
	if t.schema == nil {
		return nil, nil
	}
	return t.schema.uid, t.schema.levelUID
}

// Refused is the error of a request that may not go on.
type Refused struct {
	Schema, Level, Reason string
	// RetryAfter is how many seconds its client should wait before it asks again.
	RetryAfter int
}

func (r *Refused) Error() string {
	return fmt.Sprintf("refused by priority level %q for flow schema %q: %s", r.Level, r.Schema, r.Reason)
}

// Request is what a request asks.
type Request struct {
	User user.Info
	Info *request.Info
	Work Work
	// Own requests come from this process: they take seats but never wait and are never refused. They are the server itself, and a
	// request that holds a seat may depend on one.
	Own bool
}

// Enter lets a request in, at once or after it has waited for its turn. An error is a *Refused. Where there is none, Leave must be
// called when the request is done; it may be called in any case.
func (f *Filter) Enter(ctx context.Context, t *Ticket, r Request) error {
	now := time.Now()
	s := f.classify(r.User, r.Info)
	t.schema, t.level, t.flow = s, s.level, s.stats
	t.user, t.info, t.work, t.arrived = r.User, r.Info, r.Work, now
	t.watch = r.Info.Verb == "watch"
	t.by = s.distinguisher(r.User, r.Info)
	t.hash = mix(hash(s.seed, t.by))
	if now.UnixNano()-f.adjusted.Load() > int64(adjustEvery) {
		f.adjust(now)
	}
	if reason := s.level.admit(now, t, r.Own); reason != "" {
		return t.refused(reason)
	}
	t.flow.widths.Observe(float64(t.seats))
	if r.Work.Watchers > 0 {
		t.flow.watchers.Observe(float64(r.Work.Watchers))
	}
	if t.ready == nil {
		t.flow.waited.Observe(0)
		return nil
	}
	return f.wait(ctx, t)
}

func (t *Ticket) refused(reason string) error {
	t.level.mu.Lock()
	seconds := t.level.retry.seconds
	t.level.mu.Unlock()
	return &Refused{Schema: t.schema.name, Level: t.level.name, Reason: reason, RetryAfter: int(seconds)}
}

// wait returns when the request has its seats, or may not wait any longer.
func (f *Filter) wait(ctx context.Context, t *Ticket) error {
	limit := defaultWait
	if d, ok := ctx.Deadline(); ok {
		limit = d.Sub(t.arrived) / 4
	}
	f.arm()
	timer := time.NewTimer(min(limit, maxWait))
	defer timer.Stop()
	reason := ""
	select {
	case <-t.ready:
	case <-timer.C:
		reason = reasonTimeOut
	case <-ctx.Done():
		reason = reasonCancelled
	}
	now := time.Now()
	if reason != "" && t.level.leaveLine(now, t, reason) {
		t.flow.waitedInVain.Observe(now.Sub(t.arrived).Seconds())
		return t.refused(reason)
	}
	t.flow.waited.Observe(now.Sub(t.arrived).Seconds())
	return nil
}

// Leave gives the seats back. More than one call does no harm.
func (t *Ticket) Leave() {
	if t.left || t.schema == nil {
		return
	}
	t.left = true
	l := t.level
	if t.state == outside || t.state == stands { // refused
		return
	}
	now := time.Now()
	if took := now.Sub(t.started).Seconds(); t.watch {
		t.flow.watchTook.Observe(took)
	} else {
		t.flow.took.Observe(took)
	}
	if t.after > 0 {
		time.AfterFunc(t.after, func() { l.stand(time.Now(), t) })
		return
	}
	l.stand(now, t)
}

// classify finds the first schema that matches.
func (f *Filter) classify(u user.Info, i *request.Info) *schema {
	list := *f.schemas.Load()
	end := len(list) - 1
	for _, s := range list[:end] {
		if s.matches(u, i) {
			return s
		}
	}
	return list[end]
}

// adjust moves seats between levels.
func (f *Filter) adjust(now time.Time) {
	if !f.mu.TryLock() {
		return // somebody is at it
	}
	defer f.mu.Unlock()
	if now.UnixNano()-f.adjusted.Load() <= int64(adjustEvery)/2 {
		return
	}
	f.adjusted.Store(now.UnixNano())
	all := make([]*level, 0, len(f.levels))
	claims := make([]claim, 0, len(f.levels))
	for name, l := range f.levels {
		l.mu.Lock()
		gone := l.quiescing && l.executing == 0 && l.waiting == 0
		p := l.demand.close(now)
		l.last = p
		c := claim{capacity: l.capacity, exempt: l.exempt, high: p.high, target: p.smooth}
		l.target = max(p.smooth, float64(max(c.lower, min(c.nominal, c.high))))
		l.mu.Unlock()
		if gone {
			delete(f.levels, name)
			continue
		}
		all, claims = append(all, l), append(claims, c)
	}
	seats, fraction := lend(f.cfg.Seats, claims)
	f.fraction = fraction
	for i, l := range all {
		l.mu.Lock()
		l.advance(now)
		l.limit = seats[i]
		l.dispatch(now)
		l.mu.Unlock()
	}
}

// arm makes sure that seats are moved while requests wait, even if no new ones come.
func (f *Filter) arm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil || f.closed {
		return
	}
	f.timer = time.AfterFunc(adjustEvery, func() {
		f.mu.Lock()
		f.timer = nil
		f.mu.Unlock()
		f.adjust(time.Now())
		if f.crowded() {
			f.arm()
		}
	})
}

func (f *Filter) crowded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.levels {
		l.mu.Lock()
		n := l.waiting
		l.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// close ends the timer.
func (f *Filter) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.timer != nil {
		f.timer.Stop()
	}
}
