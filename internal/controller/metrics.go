package controller

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the loops do, under the names of upstream's work queues. A nil *Metrics counts nothing.
type Metrics struct {
	adds     *prometheus.CounterVec
	retries  *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	labels := []string{"name"}
	m := &Metrics{
		adds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_adds_total", Help: "Total number of adds handled by workqueue"}, labels),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_retries_total", Help: "Total number of retries handled by workqueue"}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_work_duration_seconds", Help: "How long in seconds processing an item from workqueue takes.",
			Buckets: prometheus.ExponentialBuckets(10e-9, 10, 10)}, labels),
	}
	r.MustRegister(m.adds, m.retries, m.duration)
	return m
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
