package podautoscaler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/cache"
)

// Metrics counts what the controller does, under upstream's names. A nil *Metrics counts nothing.
type Metrics struct {
	rounds      *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	computed    *prometheus.CounterVec
	computing   *prometheus.HistogramVec
	autoscalers prometheus.Gauge
	desired     *prometheus.GaugeVec
	stale       *prometheus.CounterVec
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	const subsystem = "horizontal_pod_autoscaler_controller"
	m := &Metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "reconciliations_total",
			Help: "Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label."},
			[]string{"action", "error"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "reconciliation_duration_seconds", Help: "The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"action", "error"}),
		computed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "metric_computation_total", Help: "Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type"}, []string{"action", "error", "metric_type"}),
		computing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "metric_computation_duration_seconds", Help: "The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"action", "error", "metric_type"}),
		autoscalers: prometheus.NewGauge(prometheus.GaugeOpts{
			Subsystem: subsystem, Name: "num_horizontal_pod_autoscalers", Help: "Current number of controlled HPA objects."}),
		desired: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Subsystem: subsystem, Name: "desired_replicas", Help: "Current desired replica count for HPA objects."}, []string{"namespace", "hpa_name"}),
		stale: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "stale_sync_skips_total", Help: "Looks that came before the controller's own writes were seen, by what was written."}, []string{"group", "resource"}),
	}
	r.MustRegister(m.rounds, m.duration, m.computed, m.computing, m.autoscalers, m.desired, m.stale)
	return m
}

// action names what a round did or a metric asks for.
func action(from, to int32) string {
	switch {
	case to > from:
		return "scale_up"
	case to < from:
		return "scale_down"
	default:
		return "none"
	}
}

func (m *Metrics) reconciled(action, failure string, took time.Duration) {
	if m != nil {
		m.rounds.WithLabelValues(action, failure).Inc()
		m.duration.WithLabelValues(action, failure).Observe(took.Seconds())
	}
}

func (m *Metrics) metric(action, failure, kind string, took time.Duration) {
	if m != nil {
		m.computed.WithLabelValues(action, failure, kind).Inc()
		m.computing.WithLabelValues(action, failure, kind).Observe(took.Seconds())
	}
}

func (m *Metrics) desire(namespace, name string, n int32) {
	if m != nil {
		m.desired.WithLabelValues(namespace, name).Set(float64(n))
	}
}

// forget takes back what was said of an autoscaler.
func (m *Metrics) forget(key string) {
	if namespace, name, err := cache.SplitMetaNamespaceKey(key); m != nil && err == nil {
		m.desired.DeleteLabelValues(namespace, name)
	}
}

// skipped counts a look that came before the last write was seen.
func (m *Metrics) skipped() {
	if m != nil {
		m.stale.WithLabelValues("autoscaling", "horizontalpodautoscalers").Inc()
	}
}

func (m *Metrics) count(n int) {
	if m != nil {
		m.autoscalers.Set(float64(n))
	}
}
