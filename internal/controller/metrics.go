package controller

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Metrics counts what the loops do, under the names of upstream's work queues. A nil *Metrics counts nothing.
type Metrics struct {
	adds     *prometheus.CounterVec
	retries  *prometheus.CounterVec
	duration *prometheus.HistogramVec
	queued   *prometheus.HistogramVec

	registry prometheus.Registerer

	mu    sync.Mutex
	loops []*Loop // guarded by mu
}

// Counter counts by labels. A nil *Counter counts nothing.
type Counter struct{ vec *prometheus.CounterVec }

// Counter registers a counter of a controller.
func (m *Metrics) Counter(name, help string, labels ...string) *Counter {
	if m == nil {
		return nil
	}
	c := &Counter{prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)}
	m.registry.MustRegister(c.vec)
	if len(labels) == 0 {
		c.vec.WithLabelValues() // shown from the beginning: who asks how much it grew has to see it at nothing
	}
	return c
}

// Inc counts one more for the values of the labels.
func (c *Counter) Inc(values ...string) {
	if c != nil {
		c.vec.WithLabelValues(values...).Inc()
	}
}

// Add counts n more for the values of the labels.
func (c *Counter) Add(n float64, values ...string) {
	if c != nil {
		c.vec.WithLabelValues(values...).Add(n)
	}
}

// Stale counts the looks of a controller that came before its own last writes of pods were seen, and did less because of that.
type Stale struct{ *Counter }

// Stale registers that counter under upstream's name; subsystem is the controller's.
func (m *Metrics) Stale(subsystem string) Stale {
	return Stale{m.Counter(subsystem+"_stale_sync_skips_total", "Looks that came before the controller's own writes were seen, by what was written.", "group", "resource")}
}

// Look counts a look unless all writes were seen, and returns whether they were.
func (s Stale) Look(settled bool) bool {
	if !settled {
		s.Inc("", "pods")
	}
	return settled
}

// Syncs counts and measures the looks of a publisher by the HTTP status code of their outcome.
type Syncs struct {
	count    *Counter
	duration *Histogram
}

// Syncs registers those metrics under upstream's names; subsystem is the publisher's.
func (m *Metrics) Syncs(subsystem string) Syncs {
	return Syncs{
		m.Counter(subsystem+"_sync_total", "Looks at what is published, by the code of the outcome.", "code"),
		m.Histogram(subsystem+"_sync_duration_seconds", "How long a look took, by the code of the outcome.", prometheus.ExponentialBuckets(0.001, 2, 15), "code"),
	}
}

// Done notes a look that took so long and ended with err.
func (s Syncs) Done(took time.Duration, err error) {
	code := http.StatusOK
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status) && status.Status().Code != 0:
		code = int(status.Status().Code)
	case err != nil:
		code = http.StatusInternalServerError
	}
	s.count.Inc(strconv.Itoa(code))
	s.duration.Observe(took.Seconds(), strconv.Itoa(code))
}

// Register registers what a controller, or a library that it uses, counts by itself.
func (m *Metrics) Register(collectors ...prometheus.Collector) {
	if m != nil {
		m.registry.MustRegister(collectors...)
	}
}

// Gauge shows a number by labels. A nil *Gauge shows nothing.
type Gauge struct{ vec *prometheus.GaugeVec }

// Gauge registers a number of a controller.
func (m *Metrics) Gauge(name, help string, labels ...string) *Gauge {
	if m == nil {
		return nil
	}
	g := &Gauge{prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)}
	m.registry.MustRegister(g.vec)
	if len(labels) == 0 {
		g.vec.WithLabelValues()
	}
	return g
}

// Set shows v for the values of the labels.
func (g *Gauge) Set(v float64, values ...string) {
	if g != nil {
		g.vec.WithLabelValues(values...).Set(v)
	}
}

// Delete shows nothing any more for the values of the labels.
func (g *Gauge) Delete(values ...string) {
	if g != nil {
		g.vec.DeleteLabelValues(values...)
	}
}

// Histogram observes by labels. A nil *Histogram observes nothing.
type Histogram struct{ vec *prometheus.HistogramVec }

// Histogram registers a histogram of a controller.
func (m *Metrics) Histogram(name, help string, buckets []float64, labels ...string) *Histogram {
	if m == nil {
		return nil
	}
	h := &Histogram{prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)}
	m.registry.MustRegister(h.vec)
	if len(labels) == 0 {
		h.vec.WithLabelValues()
	}
	return h
}

// Observe notes a value for the values of the labels.
func (h *Histogram) Observe(v float64, values ...string) {
	if h != nil {
		h.vec.WithLabelValues(values...).Observe(v)
	}
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	labels := []string{"name"}
	seconds := prometheus.ExponentialBuckets(10e-9, 10, 10)
	m := &Metrics{
		registry: r,
		adds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_adds_total", Help: "Total number of adds handled by workqueue"}, labels),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_retries_total", Help: "Total number of retries handled by workqueue"}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_work_duration_seconds", Help: "How long in seconds processing an item from workqueue takes.", Buckets: seconds}, labels),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_queue_duration_seconds", Help: "How long in seconds an item stays in workqueue before it is taken.", Buckets: seconds}, labels),
	}
	r.MustRegister(m.adds, m.retries, m.duration, m.queued, now{m})
	return m
}

// EvictionBuckets are those that upstream has for the time until a pod is evicted, in seconds.
func EvictionBuckets() []float64 {
	return []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240}
}

// add lets the state of a loop be shown.
func (m *Metrics) add(l *Loop) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loops = append(m.loops, l)
}

func (m *Metrics) added(name string) {
	if m != nil {
		m.adds.WithLabelValues(name).Inc()
	}
}

func (m *Metrics) reconciled(name string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.duration.WithLabelValues(name).Observe(took.Seconds())
	if err != nil {
		m.retries.WithLabelValues(name).Inc()
	}
}

// now is what the loops are doing, looked up when somebody asks.
type now struct{ m *Metrics }

var (
	depthDesc      = prometheus.NewDesc("workqueue_depth", "Current depth of workqueue", []string{"name"}, nil)
	unfinishedDesc = prometheus.NewDesc("workqueue_unfinished_work_seconds", "How many seconds of work is in progress that work_duration has not seen yet.", []string{"name"}, nil)
	longestDesc    = prometheus.NewDesc("workqueue_longest_running_processor_seconds", "How many seconds the longest running processor has been running.", []string{"name"}, nil)
)

// Describe implements prometheus.Collector.
func (now) Describe(out chan<- *prometheus.Desc) {
	out <- depthDesc
	out <- unfinishedDesc
	out <- longestDesc
}

// Collect implements prometheus.Collector. Loops of one name, of which the first is still ending, are shown as one.
func (n now) Collect(out chan<- prometheus.Metric) {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	type state struct{ depth, unfinished, longest float64 }
	byName := map[string]*state{}
	at := time.Now()
	for _, l := range n.m.loops {
		s := byName[l.name]
		if s == nil {
			s = &state{}
			byName[l.name] = s
		}
		s.depth += float64(l.queue.Len())
		for i := range l.busy {
			if since := l.busy[i].Load(); since != 0 {
				took := at.Sub(time.Unix(0, since)).Seconds()
				s.unfinished += took
				s.longest = max(s.longest, took)
			}
		}
	}
	for name, s := range byName {
		out <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, s.depth, name)
		out <- prometheus.MustNewConstMetric(unfinishedDesc, prometheus.GaugeValue, s.unfinished, name)
		out <- prometheus.MustNewConstMetric(longestDesc, prometheus.GaugeValue, s.longest, name)
	}
}

// timed is the order of a work queue that knows how long each key has been in it. The work queue guards it.
type timed struct {
	keys []timedKey
	wait prometheus.Observer // nil: nobody wants to know
}

type timedKey struct {
	key   string
	since time.Time
}

// Touch, Push, Len and Pop implement workqueue.Queue.
func (*timed) Touch(string) {}

// Push puts a key last.
func (t *timed) Push(key string) {
	k := timedKey{key: key}
	if t.wait != nil {
		k.since = time.Now()
	}
	t.keys = append(t.keys, k)
}

// Len is the number of keys.
func (t *timed) Len() int { return len(t.keys) }

// Pop takes the first key.
func (t *timed) Pop() string {
	k := t.keys[0]
	t.keys[0] = timedKey{} // the array lives on
	t.keys = t.keys[1:]
	if t.wait != nil {
		t.wait.Observe(time.Since(k.since).Seconds())
	}
	return k.key
}

// busySince is when a worker began with the key that it has, in nanoseconds since 1970; 0 is that it has none.
type busySince = atomic.Int64
