package flow

import (
	"cmp"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	metricPrefix = "apiserver_flowcontrol_"
	levelLabel   = "priority_level"
	schemaLabel  = "flow_schema"
)

// metrics are the distributions; counts and gauges are read from the levels when somebody asks (Filter.Collect).
type metrics struct {
	wait, execution, length, widths, watchers *prometheus.HistogramVec
}

func newMetrics() *metrics {
	seconds := []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}
	vec := func(name, help string, buckets []float64, more ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: metricPrefix + name, Help: help, Buckets: buckets},
			append([]string{levelLabel, schemaLabel}, more...))
	}
	return &metrics{
		wait:      vec("request_wait_duration_seconds", "How long requests waited in a queue.", seconds, "execute"),
		execution: vec("request_execution_seconds", "How long requests had their seats; of watches, the beginning.", seconds, "type"),
		length:    vec("request_queue_length_after_enqueue", "How long queues were, as each request that joined one saw it.", []float64{0, 10, 25, 50, 100, 250, 500, 1000}),
		widths:    vec("work_estimated_seats", "How many seats requests took.", []float64{1, 2, 4, 8, 16, 32, 64, 100}),
		watchers:  vec("watch_count_samples", "How many watchers writes had to be told.", []float64{0, 1, 10, 100, 1000, 10000}),
	}
}

func (m *metrics) register(r prometheus.Registerer, f *Filter) error {
	for _, c := range []prometheus.Collector{m.wait, m.execution, m.length, m.widths, m.watchers, f} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// stats are what a level counts of one schema. The numbers are guarded by the level's lock.
type stats struct {
	name                  string
	executing, seats      int
	waiting, waitingSeats int
	dispatched            int
	tight                 int // times that a request could not sit down for want of seats
	refusals              map[string]int

	waited, waitedInVain, took, watchTook, length, widths, watchers prometheus.Observer
}

func (s *stats) refuse(reason string) {
	if s.refusals == nil {
		s.refusals = map[string]int{}
	}
	s.refusals[reason]++
}

// statsOf returns the level's counts of a schema; the caller holds the lock.
func (l *level) statsOf(schema string) *stats {
	s := l.flows[schema]
	if s == nil {
		m := l.metrics
		s = &stats{
			name:         schema,
			waited:       m.wait.WithLabelValues(l.name, schema, "true"),
			waitedInVain: m.wait.WithLabelValues(l.name, schema, "false"),
			took:         m.execution.WithLabelValues(l.name, schema, "regular"),
			watchTook:    m.execution.WithLabelValues(l.name, schema, "watch"),
			length:       m.length.WithLabelValues(l.name, schema),
			widths:       m.widths.WithLabelValues(l.name, schema),
			watchers:     m.watchers.WithLabelValues(l.name, schema),
		}
		l.flows[schema] = s
	}
	return s
}

// sorted returns the levels by name; the caller holds f.mu.
func (f *Filter) sorted() []*level {
	return slices.SortedFunc(maps.Values(f.levels), func(a, b *level) int { return cmp.Compare(a.name, b.name) })
}

// Describe says nothing: what is collected depends on the configuration.
func (f *Filter) Describe(chan<- *prometheus.Desc) {}

// Collect reads the state of the levels.
func (f *Filter) Collect(out chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	send := func(name, help string, kind prometheus.ValueType, value float64, labels, values []string) {
		d := prometheus.NewDesc(metricPrefix+name, help, labels, nil)
		out <- prometheus.MustNewConstMetric(d, kind, value, values...)
	}
	send("seat_fair_frac", "The fraction of its target that a level got at the last adjustment.", prometheus.GaugeValue, f.fraction, nil, nil)
	byLevel, bySchema := []string{levelLabel}, []string{levelLabel, schemaLabel}
	for _, l := range f.sorted() {
		l.mu.Lock()
		for _, g := range []struct {
			name, help string
			value      float64
		}{
			{"nominal_limit_seats", "Seats of a level by its shares.", float64(l.nominal)},
			{"lower_limit_seats", "Seats that a level keeps in any case.", float64(l.lower)},
			{"upper_limit_seats", "Seats that a level may have at most.", float64(l.upper)},
			{"current_limit_seats", "Seats that a level has now.", float64(l.limit)},
			{"demand_seats_high_watermark", "The highest demand for seats in the last adjustment period.", float64(l.last.high)},
			{"demand_seats_average", "The average demand for seats in the last adjustment period.", l.last.average},
			{"demand_seats_stdev", "The standard deviation of the demand for seats in the last adjustment period.", l.last.deviation},
			{"demand_seats_smoothed", "The smoothed demand for seats.", l.last.smooth},
			{"target_seats", "How many seats a level should get if there were enough.", l.target},
			{"current_r", "The virtual time of the last change.", l.virtual},
			{"dispatch_r", "The virtual time of the last dispatch.", l.lastDispatch},
		} {
			send(g.name, g.help, prometheus.GaugeValue, g.value, byLevel, []string{l.name})
		}
		for _, name := range slices.Sorted(maps.Keys(l.flows)) {
			s := l.flows[name]
			v := []string{l.name, name}
			for _, g := range []struct {
				name, help string
				value      int
			}{
				{"current_inqueue_requests", "Requests that wait.", s.waiting},
				{"current_inqueue_seats", "Seats that waiting requests want.", s.waitingSeats},
				{"current_executing_requests", "Requests that have seats.", s.executing},
				{"current_executing_seats", "Seats that are taken.", s.seats},
			} {
				send(g.name, g.help, prometheus.GaugeValue, float64(g.value), bySchema, v)
			}
			send("dispatched_requests_total", "Requests that got seats.", prometheus.CounterValue, float64(s.dispatched), bySchema, v)
			send("request_dispatch_no_accommodation_total", "How often the next request found too few free seats.", prometheus.CounterValue, float64(s.tight), bySchema, v)
			for _, reason := range slices.Sorted(maps.Keys(s.refusals)) {
				send("rejected_requests_total", "Requests that were refused.", prometheus.CounterValue, float64(s.refusals[reason]),
					[]string{levelLabel, schemaLabel, "reason"}, []string{l.name, name, reason})
			}
		}
		l.mu.Unlock()
	}
}
