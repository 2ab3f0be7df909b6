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
	entities    *prometheus.CounterVec
	flushed     prometheus.Counter
	evaluation  *prometheus.HistogramVec
	execution   *prometheus.HistogramVec
	executions  *prometheus.CounterVec
	violations  *prometheus.CounterVec
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
		entities: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_queue_incoming_entities_total",
			Help: "Pods that came into a part of the queue, by why."}, []string{"queue", "event", "type"}),
		flushed: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_pod_scheduled_after_flush_total",
			Help: "Pods that were scheduled when they had been tried again although nothing had happened that should let them fit."}),
		evaluation: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_preemption_evaluation_duration_seconds",
			Help: "Duration of the search for pods that may go.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"preemptor", "result"}),
		execution: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scheduler_preemption_execution_duration_seconds",
			Help: "Duration of the eviction of all who are to go for one pod.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"preemptor", "result"}),
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_preemption_goroutines_execution_total",
			Help: "Evictions of all who are to go for one pod."}, []string{"result"}),
		violations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_preemption_pdb_violations_total",
			Help: "Pods that had to go although their disruption budgets would rather have kept them."}, []string{"preemptor"}),
	}
	for _, c := range []prometheus.Collector{m.attempts, m.attempt, m.algorithm, m.tries, m.sli, m.preemptions, m.victims, m.groups, m.incoming, m.points, m.entities, m.flushed, m.evaluation, m.execution,
		m.executions, m.violations, &gauges{s}} {
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
	if it.flushed {
		m.flushed.Inc()
	}
	m.sli.WithLabelValues(strconv.Itoa(min(it.attempts, 15))).Observe(now.Sub(it.since).Seconds())
}

func (m *metrics) preempting() {
	if m != nil {
		m.preemptions.Inc()
	}
}

// onePod is who evicts others: there are no groups of pods that do.
const onePod = "pod"

// searched observes a search for victims, and counts those that were chosen.
func (m *metrics) searched(took time.Duration, status string, found bool, e *Eviction) {
	if m == nil {
		return
	}
	m.evaluation.WithLabelValues(onePod, status).Observe(took.Seconds())
	if found {
		m.groups.Observe(float64(len(e.Victims)))
		m.violations.WithLabelValues(onePod).Add(float64(e.Violations))
	}
}

// carriedOut observes the eviction of the victims of one pod.
func (m *metrics) carriedOut(took time.Duration, err error) {
	if m == nil {
		return
	}
	result := "success"
	if err != nil {
		result = resultError
	}
	m.execution.WithLabelValues(onePod, result).Observe(took.Seconds())
	m.executions.WithLabelValues(result).Inc()
}

// came counts a pod that came into a part of the queue.
func (m *metrics) came(queue, event string) {
	if m != nil {
		m.incoming.WithLabelValues(queue, event).Inc()
		m.entities.WithLabelValues(queue, event, onePod).Inc()
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

func (g *gauges) descriptions() (pending, unschedulable, cache, entities, goroutines *prometheus.Desc) {
	return prometheus.NewDesc("scheduler_pending_pods", "Pods that wait, by what they wait for.", []string{"queue"}, nil),
		prometheus.NewDesc("scheduler_unschedulable_pods", "Pods that fit nowhere, by the plugins that refused them.", []string{"plugin", "profile"}, nil),
		prometheus.NewDesc("scheduler_cache_size", "Nodes, pods on nodes, and pods whose binding isn't confirmed.", []string{"type"}, nil),
		prometheus.NewDesc("scheduler_queued_entities", "Pods that wait, by what they wait for.", []string{"queue", "type"}, nil),
		prometheus.NewDesc("scheduler_goroutines", "Goroutines, by what they do.", []string{"operation"}, nil)
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	a, b, c, d, e := g.descriptions()
	for _, desc := range []*prometheus.Desc{a, b, c, d, e} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	pending, unschedulable, cache, entities, goroutines := g.descriptions()
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
		send(entities, n, queue, onePod)
	}
	for r, n := range plugins {
		send(unschedulable, n, r.plugin, r.profile)
	}
	send(goroutines, s.binds.working(), "binding")
	send(cache, nodes, "nodes")
	send(cache, pods, "pods")
	send(cache, assumed, "assumed_pods")
}
