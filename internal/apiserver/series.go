package apiserver

import (
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// family is a metric that each kind of request has a series of. A cluster with a thousand custom resources has many thousands of them: those of the
// library take five kilobytes for a histogram, most of it for labels that are the same in all families and for exemplars that nobody gives.
type family struct {
	desc   *prometheus.Desc
	bounds []float64 // of a histogram's buckets, ascending; nil for a counter
}

func newFamily(name, help string, bounds []float64, labels ...string) *family {
	return &family{desc: prometheus.NewDesc(name, help, labels, nil), bounds: bounds}
}

// histogram counts values in the buckets of its family. Safe for concurrent use.
type histogram struct {
	counts []atomic.Uint64 // one for each bound, and one for what is above all
	sum    atomic.Uint64   // the bits of a float64
}

func (f *family) histogram() histogram {
	return histogram{counts: make([]atomic.Uint64, len(f.bounds)+1)}
}

// observe counts a value. bounds are those of the histogram's family.
func (h *histogram) observe(bounds []float64, v float64) {
	i, _ := slices.BinarySearch(bounds, v)
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+v)) {
			return
		}
	}
}

// sample is one series when it is read.
type sample struct {
	of     *family
	labels []string
	write  func(*dto.Metric)
}

// Desc implements prometheus.Metric.
func (s sample) Desc() *prometheus.Desc { return s.of.desc }

// Write implements prometheus.Metric.
func (s sample) Write(m *dto.Metric) error {
	m.Label = prometheus.MakeLabelPairs(s.of.desc, s.labels)
	s.write(m)
	return nil
}

func (f *family) count(n *atomic.Uint64, labels []string) prometheus.Metric {
	return sample{f, labels, func(m *dto.Metric) {
		v := float64(n.Load())
		m.Counter = &dto.Counter{Value: &v}
	}}
}

func (f *family) buckets(h *histogram, labels []string) prometheus.Metric {
	return sample{f, labels, func(m *dto.Metric) {
		sum, total := math.Float64frombits(h.sum.Load()), uint64(0)
		buckets := make([]*dto.Bucket, len(f.bounds))
		for i := range f.bounds {
			total += h.counts[i].Load()
			so := total
			buckets[i] = &dto.Bucket{CumulativeCount: &so, UpperBound: &f.bounds[i]}
		}
		total += h.counts[len(f.bounds)].Load()
		m.Histogram = &dto.Histogram{SampleCount: &total, SampleSum: &sum, Bucket: buckets}
	}}
}

// requestKey is what the series of requests differ in.
type requestKey struct {
	verb, group, version, resource, subresource, scope string
}

func (k *requestKey) labels() []string {
	return []string{k.verb, k.group, k.version, k.resource, k.subresource, k.scope, "apiserver"}
}

// requestSeries are the series of one kind of request. A dry run has times of its own.
type requestSeries struct {
	bytes, sli histogram
	seconds    [2]histogram // in earnest, dry
	timed      [2]atomic.Bool
	codes      sync.Map // codeKey to *atomic.Uint64
}

type codeKey struct {
	code int
	dry  bool
}

// dryRun is the value of the label dry_run.
func dryRun(dry bool) string {
	if dry {
		return "All"
	}
	return ""
}

// requestFamilies are the metrics of requests: how many, how long, how much. They are a collector of the library's registry.
type requestFamilies struct {
	requests, seconds, sli, bytes *family

	series sync.Map // requestKey to *requestSeries
}

func newRequestFamilies() *requestFamilies {
	labels := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	dry := append([]string{"dry_run"}, labels...)
	return &requestFamilies{
		requests: newFamily("apiserver_request_total", "Requests by verb, resource, dry run and HTTP response code.", nil, append([]string{"code"}, dry...)...),
		seconds: newFamily("apiserver_request_duration_seconds", "How long requests took, by verb, resource and dry run.",
			[]float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}, dry...),
		sli: newFamily("apiserver_request_sli_duration_seconds", "How long requests took without the time that webhooks took, by verb and resource.",
			[]float64{0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}, labels...),
		bytes: newFamily("apiserver_response_sizes", "Size of answers in bytes, by verb and resource.", prometheus.ExponentialBuckets(1000, 10, 7), labels...),
	}
}

// of returns the series of a kind of request.
func (f *requestFamilies) of(k requestKey) *requestSeries {
	v, ok := f.series.Load(k)
	if !ok {
		v, _ = f.series.LoadOrStore(k, &requestSeries{bytes: f.bytes.histogram(), sli: f.sli.histogram(), seconds: [2]histogram{f.seconds.histogram(), f.seconds.histogram()}})
	}
	return v.(*requestSeries) //nolint:forcetypeassert // nothing else is stored
}

// count counts a request that was answered with a code.
func (s *requestSeries) count(code int, dry bool) {
	k := codeKey{code, dry}
	n, ok := s.codes.Load(k)
	if !ok {
		n, _ = s.codes.LoadOrStore(k, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1) //nolint:forcetypeassert // nothing else is stored
}

// observe counts how long a request took, in seconds, of which ours is the part that nobody else took, and how large the answer was.
func (f *requestFamilies) observe(s *requestSeries, dry bool, took, ours, size float64) {
	i := 0
	if dry {
		i = 1
	}
	s.timed[i].Store(true)
	s.seconds[i].observe(f.seconds.bounds, took)
	s.sli.observe(f.sli.bounds, ours)
	s.bytes.observe(f.bytes.bounds, size)
}

// Describe implements prometheus.Collector.
func (f *requestFamilies) Describe(out chan<- *prometheus.Desc) {
	for _, family := range []*family{f.requests, f.seconds, f.sli, f.bytes} {
		out <- family.desc
	}
}

// Collect implements prometheus.Collector.
func (f *requestFamilies) Collect(out chan<- prometheus.Metric) {
	f.series.Range(func(key, value any) bool {
		k, s := key.(requestKey), value.(*requestSeries) //nolint:forcetypeassert // nothing else is stored
		labels := k.labels()
		s.codes.Range(func(key, n any) bool {
			c := key.(codeKey) //nolint:forcetypeassert // nothing else is stored
			out <- f.requests.count(n.(*atomic.Uint64), append([]string{strconv.Itoa(c.code), dryRun(c.dry)}, labels...))
			return true
		})
		timed := false
		for i := range s.seconds {
			if s.timed[i].Load() {
				timed = true
				out <- f.seconds.buckets(&s.seconds[i], append([]string{dryRun(i == 1)}, labels...))
			}
		}
		if timed {
			out <- f.sli.buckets(&s.sli, labels)
			out <- f.bytes.buckets(&s.bytes, labels)
		}
		return true
	})
}
