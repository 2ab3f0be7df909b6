package dns

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics have the names that CoreDNS gave them, so that dashboards for it work. A nil *Metrics counts nothing.
type Metrics struct {
	requests  *prometheus.CounterVec
	responses *prometheus.CounterVec
	hits      prometheus.Counter
	misses    prometheus.Counter
	duration  prometheus.Histogram
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coredns_dns_requests_total", Help: "Questions by transport and type.",
		}, []string{"proto", "type"}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "coredns_dns_responses_total", Help: "Answers by their code.",
		}, []string{"rcode"}),
		hits:   prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_cache_hits_total", Help: "Answers that had been given before."}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_cache_misses_total", Help: "Answers that had to be found."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "coredns_dns_request_duration_seconds", Help: "Time from question to answer.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
	}
	r.MustRegister(m.requests, m.responses, m.hits, m.misses, m.duration)
	return m
}

func (m *Metrics) answered(network string, qtype uint16, rcode byte, hit bool, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(network, typeName(qtype)).Inc()
	m.responses.WithLabelValues(dns.RcodeToString[int(rcode)]).Inc()
	if hit {
		m.hits.Inc()
	} else {
		m.misses.Inc()
	}
	m.duration.Observe(took.Seconds())
}

// typeName keeps the number of labels small: what is rare is "other".
func typeName(qtype uint16) string {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeMX, dns.TypeNS, dns.TypePTR, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS:
		return dns.TypeToString[qtype]
	}
	return "other"
}
