package scheduler

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of an attempt, as upstream names them.
const (
	resultScheduled     = "scheduled"
	resultUnschedulable = "unschedulable"
	resultError         = "error"
)

// metrics has upstream's names. A nil *metrics counts nothing.
type metrics struct {
	attempts    *prometheus.CounterVec
	attempt     *prometheus.HistogramVec
	algorithm   prometheus.Histogram
	tries       prometheus.Histogram
	sli         *prometheus.HistogramVec
	preemptions prometheus.Counter
	victims     prometheus.Counter
	groups      prometheus.Histogram
	incoming    *prometheus.CounterVec
	points      *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, s *Scheduler) (*metrics, error) {
	if r == nil {
		return nil, nil
	}
	buckets := prometheus.ExponentialBuckets(0.001, 2, 15)
	labels := []string{"profile", "result"}
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_schedule_attempts_total",
			Help: "Attempts to schedule pods, by result: unschedulable means that the pod fits nowhere, error that something went wrong."}, labels),
		attempt: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_scheduling_attempt_duration_seconds",
			Help: "Duration of an attempt: decision and binding.", Buckets: buckets}, labels),
		algorithm: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_scheduling_algorithm_duration_seconds",
			Help: "Duration of the decision.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 12)}),
		tries: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_pod_scheduling_attempts",
			Help: "How many attempts a pod took that was scheduled.", Buckets: prometheus.ExponentialBuckets(1, 2, 5)}),
		sli: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_pod_scheduling_sli_duration_seconds",
			Help: "From when a pod could be scheduled first to when it was.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 20)}, []string{"attempts"}),
		preemptions: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total",
			Help: "Attempts to make room by evicting less important pods."}),
		victims: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_evicted_pods_total", Help: "Pods that were evicted for others."}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "scheduler_preemption_victims",
			Help: "How many pods are to go for one.", Buckets: prometheus.ExponentialBuckets(1, 2, 7)}),
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_queue_incoming_pods_total",
			Help: "Pods that came into a part of the queue, by why."}, []string{"queue", "event"}),
		points: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_framework_extension_point_duration_seconds",
			Help: "Duration of the parts of an attempt that call the API or search for victims. Filters and scores are asked together and not timed apart.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 12)},
			[]string{"extension_point", "status", "profile"}),
	}
	for _, c := range []prometheus.Collector{m.attempts, m.attempt, m.algorithm, m.tries, m.sli, m.preemptions, m.victims, m.groups, m.incoming, m.points, &gauges{s}} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// attempted counts an attempt that has ended.
func (m *metrics) attempted(p *Pod, result string, took time.Duration) {
	if m != nil {
		m.attempts.WithLabelValues(p.profile.name, result).Inc()
		m.attempt.WithLabelValues(p.profile.name, result).Observe(took.Seconds())
	}
}

func (m *metrics) decided(took time.Duration) {
	if m != nil {
		m.algorithm.Observe(took.Seconds())
	}
}

// scheduled counts a pod that has been bound.
func (m *metrics) scheduled(p *Pod, it *item, now, since time.Time) {
	if m == nil {
		return
	}
	m.attempted(p, resultScheduled, now.Sub(since))
	m.tries.Observe(float64(it.attempts))
	m.sli.WithLabelValues(strconv.Itoa(min(it.attempts, 15))).Observe(now.Sub(it.since).Seconds())
}

func (m *metrics) preempting() {
	if m != nil {
		m.preemptions.Inc()
	}
}

// chosen counts the victims of one pod.
func (m *metrics) chosen(victims int) {
	if m != nil {
		m.groups.Observe(float64(victims))
	}
}

// came counts a pod that came into a part of the queue.
func (m *metrics) came(queue, event string) {
	if m != nil {
		m.incoming.WithLabelValues(queue, event).Inc()
	}
}

// passed observes how long an extension point took that a pod has passed, or not.
func (m *metrics) passed(p *Pod, point string, took time.Duration, status string) {
	if m != nil {
		m.points.WithLabelValues(point, status, p.profile.name).Observe(took.Seconds())
	}
}

func (m *metrics) evicted() {
	if m != nil {
		m.victims.Inc()
	}
}

// gauges are counted when they are asked for.
type gauges struct{ s *Scheduler }

func (g *gauges) descriptions() (pending, unschedulable, cache *prometheus.Desc) {
	return prometheus.NewDesc("scheduler_pending_pods", "Pods that wait, by what they wait for.", []string{"queue"}, nil),
		prometheus.NewDesc("scheduler_unschedulable_pods", "Pods that fit nowhere, by the plugins that refused them.", []string{"plugin", "profile"}, nil),
		prometheus.NewDesc("scheduler_cache_size", "Nodes, pods on nodes, and pods whose binding isn't confirmed.", []string{"type"}, nil)
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	a, b, c := g.descriptions()
	ch <- a
	ch <- b
	ch <- c
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	pending, unschedulable, cache := g.descriptions()
	type refused struct{ plugin, profile string }
	queues := map[string]int{"active": 0, "backoff": 0, "unschedulable": 0, "gated": 0}
	plugins := map[refused]int{}
	s := g.s
	s.mu.Lock()
	for _, it := range s.queue.items {
		switch it.stage {
		case stageActive:
			queues["active"]++
		case stageBackoff:
			queues["backoff"]++
		case stageUnschedulable:
			queues["unschedulable"]++
			for _, name := range it.plugins {
				plugins[refused{name, it.p.profile.name}]++
			}
		case stageGated:
			queues["gated"]++
		}
	}
	assumed := 0
	for _, q := range s.snapshot.pods {
		if q.assumed {
			assumed++
		}
	}
	nodes, pods := s.snapshot.Nodes(), len(s.snapshot.pods)
	s.mu.Unlock()
	send := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for queue, n := range queues {
		send(pending, n, queue)
	}
	for r, n := range plugins {
		send(unschedulable, n, r.plugin, r.profile)
	}
	send(cache, nodes, "nodes")
	send(cache, pods, "pods")
	send(cache, assumed, "assumed_pods")
}
