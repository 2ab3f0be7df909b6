package serve

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// buckets are the bounds of the histogram of times, in seconds.
var buckets = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// firstCode and lastCode bound the codes that are counted one by one.
const firstCode, lastCode = 100, 599

// stats are what is counted of an Ingress.
type stats struct {
	codes   [lastCode - firstCode + 1]atomic.Uint64
	times   [len(buckets) + 1]atomic.Uint64
	sum     atomic.Uint64 // nanoseconds
	retries atomic.Uint64
}

// done counts a request that was answered.
func (c *stats) done(code int, took time.Duration) {
	if code < firstCode || code > lastCode {
		code = lastCode
	}
	c.codes[code-firstCode].Add(1)
	c.sum.Add(uint64(max(took, 0)))
	s := took.Seconds()
	i := 0
	for i < len(buckets) && s > buckets[i] {
		i++
	}
	c.times[i].Add(1)
}

var (
	requestsDesc    = prometheus.NewDesc("celox_ingress_requests_total", "Requests by Ingress and code. Requests that no Ingress is for have no names.", []string{"namespace", "ingress", "code"}, nil)
	durationDesc    = prometheus.NewDesc("celox_ingress_request_duration_seconds", "Time from the head of a request to the end of its answer.", []string{"namespace", "ingress"}, nil)
	retriesDesc     = prometheus.NewDesc("celox_ingress_retries_total", "Requests that were sent again, to another endpoint.", []string{"namespace", "ingress"}, nil)
	connectionsDesc = prometheus.NewDesc("celox_ingress_connections", "Connections of clients.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, durationDesc, retriesDesc, connectionsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(connectionsDesc, prometheus.GaugeValue, float64(s.connections.Load()))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stray.collect(ch, types.NamespacedName{})
	for name, c := range s.stats {
		c.collect(ch, name)
	}
}

func (c *stats) collect(ch chan<- prometheus.Metric, name types.NamespacedName) {
	for i := range c.codes {
		if n := c.codes[i].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), name.Namespace, name.Name, strconv.Itoa(i+firstCode))
		}
	}
	if n := c.retries.Load(); n > 0 {
		ch <- prometheus.MustNewConstMetric(retriesDesc, prometheus.CounterValue, float64(n), name.Namespace, name.Name)
	}
	cumulative := make(map[float64]uint64, len(buckets))
	var count uint64
	for i := range c.times {
		count += c.times[i].Load()
		if i < len(buckets) {
			cumulative[buckets[i]] = count
		}
	}
	if count > 0 {
		ch <- prometheus.MustNewConstHistogram(durationDesc, count, float64(c.sum.Load())/float64(time.Second), cumulative, name.Namespace, name.Name)
	}
}
