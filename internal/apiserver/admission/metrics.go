package admission

import (
	"reflect"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what admission does, under upstream's names. A nil *Metrics counts nothing. It is safe for concurrent use.
type Metrics struct {
	steps, plugins, webhooks, conditions     *prometheus.HistogramVec
	rejections, open, calls, errors, exclude *prometheus.CounterVec
	validated, mutated                       *prometheus.CounterVec
	validating, mutating                     *prometheus.HistogramVec

	// series are what each request observes, found once; the names are those of the chain's plugins.
	step  seriesOf
	names []string
	by    []seriesOf
}

// The types of steps. Webhooks say "validating" where the others say "validate".
const (
	stepAdmit    = 0
	stepValidate = 1
)

var stepNames = [...]string{"admit", "validate"}

var operations = [...]Operation{Create, Update, Delete, Connect}

// seriesOf holds observers by step, operation and whether the request was refused.
type seriesOf [2][len(operations)][2]atomic.Pointer[prometheus.Observer]

func (s *seriesOf) observe(v *prometheus.HistogramVec, first []string, step int, op Operation, rejected bool, took time.Duration) {
	o, r := 0, 0
	for i := range operations {
		if operations[i] == op {
			o = i
		}
	}
	if rejected {
		r = 1
	}
	at := &s[step][o][r]
	p := at.Load()
	if p == nil {
		found := v.WithLabelValues(append(first[:len(first):len(first)], stepNames[step], string(op), strconv.FormatBool(rejected))...)
		p = &found
		at.Store(p)
	}
	(*p).Observe(took.Seconds())
}

// NewMetrics registers the metrics of a chain with r.
func NewMetrics(r prometheus.Registerer, c Chain) *Metrics {
	seconds := []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_" + name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_" + name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	check := []float64{0.0000005, 0.001, 0.01, 0.1, 1}
	m := &Metrics{
		steps:      histogram("admission_step_admission_duration_seconds", "How long a step of admission took.", seconds, "type", "operation", "rejected"),
		plugins:    histogram("admission_controller_admission_duration_seconds", "How long a plugin of admission took.", seconds, "name", "type", "operation", "rejected"),
		webhooks:   histogram("admission_webhook_admission_duration_seconds", "How long an admission webhook took.", append(seconds, 10, 25), "name", "type", "operation", "rejected"),
		rejections: counter("admission_webhook_rejection_count", "Requests that were refused because of an admission webhook.", "name", "type", "operation", "error_type", "rejection_code"),
		open:       counter("admission_webhook_fail_open_count", "Failures of admission webhooks that were passed over.", "name", "type"),
		calls:      counter("admission_webhook_request_total", "Calls of admission webhooks.", "name", "type", "operation", "code", "rejected"),
		errors:     counter("admission_match_condition_evaluation_errors_total", "Match conditions that could not be evaluated.", "name", "kind", "type", "operation"),
		exclude:    counter("admission_match_condition_exclusions_total", "Requests that match conditions kept from a webhook.", "name", "kind", "type", "operation"),
		conditions: histogram("admission_match_condition_evaluation_seconds", "How long match conditions took.", []float64{0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25}, "name", "kind", "type", "operation"),
		validated:  counter("validating_admission_policy_check_total", "Outcomes of validations of policies that are worth a word.", "policy", "policy_binding", "error_type", "enforcement_action"),
		validating: histogram("validating_admission_policy_check_duration_seconds", "How long these validations took.", check, "policy", "policy_binding", "error_type", "enforcement_action"),
		mutated:    counter("mutating_admission_policy_check_total", "Outcomes of mutations of policies.", "policy", "policy_binding", "error_type"),
		mutating:   histogram("mutating_admission_policy_check_duration_seconds", "How long these mutations took.", check, "policy", "policy_binding", "error_type"),
		by:         make([]seriesOf, len(c)),
	}
	for _, p := range c {
		m.names = append(m.names, pluginName(p))
		if own, ok := p.(interface{ Metrics() []prometheus.Collector }); ok {
			r.MustRegister(own.Metrics()...)
		}
	}
	return m
}

// pluginName is what upstream calls a plugin: that of its type, unless it says another one.
func pluginName(p any) string {
	if n, ok := p.(interface{ PluginName() string }); ok {
		return n.PluginName()
	}
	t := reflect.TypeOf(p)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

// stopwatch measures the plugins of one step, one after the other.
type stopwatch struct {
	m     *Metrics
	begun time.Time
	last  time.Duration // after begun; the clock is read for each plugin, and reading only the time that has passed is half the work
	step  int
}

func (m *Metrics) start(step int) stopwatch {
	if m == nil {
		return stopwatch{}
	}
	return stopwatch{m: m, begun: time.Now(), step: step}
}

func (s *stopwatch) plugin(i int, op Operation, rejected bool) {
	if s.m == nil || i >= len(s.m.names) {
		return
	}
	now := time.Since(s.begun)
	s.m.by[i].observe(s.m.plugins, s.m.names[i:i+1], s.step, op, rejected, now-s.last)
	s.last = now
}

func (s *stopwatch) end(op Operation, rejected bool) {
	if s.m != nil {
		s.m.step.observe(s.m.steps, nil, s.step, op, rejected, time.Since(s.begun))
	}
}

// highestCode bounds the values of labels that others decide about.
const highestCode = 600

// Webhook counts a call. Code is the HTTP status that it came to; rejected says that the request fails because of it.
func (m *Metrics) Webhook(name, sort string, op Operation, code int, rejected bool, took time.Duration) {
	if m == nil {
		return
	}
	no := strconv.FormatBool(rejected)
	m.calls.WithLabelValues(name, sort, string(op), strconv.Itoa(min(code, highestCode)), no).Inc()
	m.webhooks.WithLabelValues(name, sort, string(op), no).Observe(took.Seconds())
}

// The reasons why a webhook's request is refused.
const (
	CallFailed    = "calling_webhook_error"
	InternalError = "apiserver_internal_error"
	NoError       = "no_error"
)

// WebhookRejected counts a request that fails because of a webhook.
func (m *Metrics) WebhookRejected(name, sort string, op Operation, reason string, code int) {
	if m != nil {
		m.rejections.WithLabelValues(name, sort, string(op), reason, strconv.Itoa(min(code, highestCode))).Inc()
	}
}

// WebhookFailedOpen counts a failure that was passed over.
func (m *Metrics) WebhookFailedOpen(name, sort string) {
	if m != nil {
		m.open.WithLabelValues(name, sort).Inc()
	}
}

// Conditions counts an evaluation of match conditions; kind is "webhook" or "policy".
func (m *Metrics) Conditions(name, kind, sort string, op Operation, matched bool, err error, took time.Duration) {
	if m == nil {
		return
	}
	labels := []string{name, kind, sort, string(op)}
	m.conditions.WithLabelValues(labels...).Observe(took.Seconds())
	switch {
	case err != nil:
		m.errors.WithLabelValues(labels...).Inc()
	case !matched && kind == "webhook":
		m.exclude.WithLabelValues(labels...).Inc()
	}
}

// Validated counts the outcome of a validation; action is what follows from it: allow, deny, audit or warn.
func (m *Metrics) Validated(policy, binding, reason, action string, took time.Duration) {
	if m != nil {
		m.validated.WithLabelValues(policy, binding, reason, action).Inc()
		m.validating.WithLabelValues(policy, binding, reason, action).Observe(took.Seconds())
	}
}

// Mutated counts the outcome of a mutation.
func (m *Metrics) Mutated(policy, binding, reason string, took time.Duration) {
	if m != nil {
		m.mutated.WithLabelValues(policy, binding, reason).Inc()
		m.mutating.WithLabelValues(policy, binding, reason).Observe(took.Seconds())
	}
}
