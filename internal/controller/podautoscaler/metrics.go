package podautoscaler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the controller does, under upstream's names. A nil *Metrics counts nothing.
type Metrics struct {
	rounds      *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	computed    *prometheus.CounterVec
	computing   *prometheus.HistogramVec
	autoscalers prometheus.Gauge
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	const subsystem = "horizontal_pod_autoscaler_controller"
	m := &Metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "reconciliations_total",
			Help: "Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'."},
			[]string{"action", "error"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "reconciliation_duration_seconds", Help: "The time(seconds) that the HPA controller takes to reconcile once.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"action", "error"}),
		computed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: subsystem, Name: "metric_computation_total", Help: "Number of metric computations."}, []string{"action", "error", "metric_type"}),
		computing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: subsystem, Name: "metric_computation_duration_seconds", Help: "The time(seconds) that the HPA controller takes to calculate one metric.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)}, []string{"action", "error", "metric_type"}),
		autoscalers: prometheus.NewGauge(prometheus.GaugeOpts{
			Subsystem: subsystem, Name: "num_horizontal_pod_autoscalers", Help: "Current number of controlled HPA objects."}),
	}
	r.MustRegister(m.rounds, m.duration, m.computed, m.computing, m.autoscalers)
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

func (m *Metrics) metric(action string, err error, kind string, took time.Duration) {
	if m != nil {
		failure := "none"
		if err != nil {
			failure = "internal"
		}
		m.computed.WithLabelValues(action, failure, kind).Inc()
		m.computing.WithLabelValues(action, failure, kind).Observe(took.Seconds())
	}
}

func (m *Metrics) count(n int) {
	if m != nil {
		m.autoscalers.Set(float64(n))
	}
}
