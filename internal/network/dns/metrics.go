package dns

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics have the names that CoreDNS gave them, so that dashboards for it work. A nil *Metrics counts nothing.
type Metrics struct {
	requests  map[string]*[typeCount]prometheus.Counter // by transport and type
	responses [rcodeCount]prometheus.Counter
	hits      prometheus.Counter
	misses    prometheus.Counter
	duration  prometheus.Histogram
}

const (
	// rcodeCount is how many codes fit into the header of an answer.
	rcodeCount = 16
	typeCount  = 11
	otherType  = typeCount - 1
)

// typeOf is the place of a type among those that are counted by themselves, which are few; what is rare is "other".
func typeOf(qtype uint16) int {
	switch qtype {
	case dns.TypeA:
		return 0
	case dns.TypeAAAA:
		return 1
	case dns.TypeCNAME:
		return 2
	case dns.TypeMX:
		return 3
	case dns.TypeNS:
		return 4
	case dns.TypePTR:
		return 5
	case dns.TypeSOA:
		return 6
	case dns.TypeSRV:
		return 7
	case dns.TypeTXT:
		return 8
	case dns.TypeHTTPS:
		return 9
	}
	return otherType
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "coredns_dns_requests_total", Help: "Questions by transport and type.",
	}, []string{"proto", "type"})
	responses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "coredns_dns_responses_total", Help: "Answers by their code.",
	}, []string{"rcode"})
	m := &Metrics{
		requests: map[string]*[typeCount]prometheus.Counter{},
		hits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_cache_hits_total", Help: "Answers that had been given before."}),
		misses:   prometheus.NewCounter(prometheus.CounterOpts{Name: "coredns_cache_misses_total", Help: "Answers that had to be found."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "coredns_dns_request_duration_seconds", Help: "Time from question to answer.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 16),
		}),
	}
	names := [typeCount]string{"A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "HTTPS", "other"}
	for _, proto := range []string{"udp", "tcp"} {
		m.requests[proto] = new([typeCount]prometheus.Counter)
		for i, name := range names {
			m.requests[proto][i] = requests.WithLabelValues(proto, name)
		}
	}
	for i := range m.responses {
		name, ok := dns.RcodeToString[i]
		if !ok {
			name = "other"
		}
		m.responses[i] = responses.WithLabelValues(name)
	}
	r.MustRegister(requests, responses, m.hits, m.misses, m.duration)
	return m
}

// missed counts a question that went the long way.
func (m *Metrics) missed(network string, qtype uint16, rcode int, took time.Duration) {
	if m == nil {
		return
	}
	m.requests[network][typeOf(qtype)].Inc()
	m.responses[rcode&(rcodeCount-1)].Inc()
	m.misses.Inc()
	m.duration.Observe(took.Seconds())
}

// tally counts what went the short way over one transport, by one goroutine and for a short time.
type tally struct {
	network string
	all     int
	types   [typeCount]int
	rcodes  [rcodeCount]int
}

func (t *tally) hit(qtype uint16, rcode byte) {
	t.all++
	t.types[typeOf(qtype)]++
	t.rcodes[rcode]++
}

// add counts what t has, which took no longer each, and empties it.
func (m *Metrics) add(t *tally, took time.Duration) {
	if m != nil {
		m.hits.Add(float64(t.all))
		for i, n := range t.types {
			if n > 0 {
				m.requests[t.network][i].Add(float64(n))
			}
		}
		for i, n := range t.rcodes {
			if n > 0 {
				m.responses[i].Add(float64(n))
			}
		}
		for range t.all {
			m.duration.Observe(took.Seconds())
		}
	}
	*t = tally{network: t.network}
}
