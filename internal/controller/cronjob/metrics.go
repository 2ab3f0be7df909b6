package cronjob

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics measures how late Jobs are made, under upstream's name. A nil *Metrics measures nothing.
type Metrics struct{ skew prometheus.Histogram }

// NewMetrics registers the metrics with r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{prometheus.NewHistogram(prometheus.HistogramOpts{
		Subsystem: "cronjob_controller", Name: "job_creation_skew_duration_seconds", Help: "How long after its time a Job was made.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 10),
	})}
	r.MustRegister(m.skew)
	return m
}

func (m *Metrics) created(late time.Duration) {
	if m != nil {
		m.skew.Observe(late.Seconds())
	}
}
