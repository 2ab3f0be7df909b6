package observed

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/celox/celox/internal/store/kv"
)

// Engine is an engine whose requests are measured. Watches, leases and compactions are not.
type Engine struct {
	kv.Engine
	below   string
	names   map[string]Name // by prefix below the common one; those of custom resources are told by their form
	seconds *prometheus.HistogramVec
	series  sync.Map // of seriesKey to prometheus.Observer
}

// Name is what the keys below a prefix are.
type Name struct{ Group, Resource string }

type seriesKey struct {
	operation string
	name      Name
}

// sizeWait is how long the size of the database may take to find out.
const sizeWait = time.Second

// New measures e. All keys are below a prefix ("/registry/"), those of each resource below one of names ("pods", "services/specs").
func New(e kv.Engine, r prometheus.Registerer, below string, names map[string]Name) *Engine {
	o := &Engine{Engine: e, below: below, names: names, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_request_duration_seconds", Help: "How long requests to the key-value store took, by operation and resource.",
		Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
	}, []string{"operation", "group", "resource"})}
	r.MustRegister(o.seconds, size{e, "etcd-0"})
	return o
}

// Beside measures another engine as part of the same: it has some of the resources. Its size goes by a name of its own.
func (o *Engine) Beside(e kv.Engine, r prometheus.Registerer, name string) *Engine {
	r.MustRegister(size{e, name})
	return &Engine{Engine: e, below: o.below, names: o.names, seconds: o.seconds}
}

// Range implements kv.Engine.
func (o *Engine) Range(ctx context.Context, r kv.RangeRequest) (kv.RangeResponse, error) {
	began := time.Now()
	resp, err := o.Engine.Range(ctx, r)
	operation := "get"
	if r.End != "" {
		operation = "list"
	}
	o.observe(operation, r.Key, began)
	return resp, err
}

// Txn implements kv.Engine.
func (o *Engine) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (kv.TxnResponse, error) {
	began := time.Now()
	resp, err := o.Engine.Txn(ctx, guards, ops)
	if len(ops) > 0 {
		operation := "update"
		switch {
		case ops[0].Delete:
			operation = "delete"
		case len(guards) > 0 && guards[0].ModRevision == 0:
			operation = "create"
		}
		o.observe(operation, ops[0].Key, began)
	}
	return resp, err
}

func (o *Engine) observe(operation, key string, began time.Time) {
	took := time.Since(began).Seconds()
	k := seriesKey{operation, o.nameOf(key)}
	v, ok := o.series.Load(k)
	if !ok {
		v, _ = o.series.LoadOrStore(k, o.seconds.WithLabelValues(operation, k.name.Group, k.name.Resource))
	}
	if s, ok := v.(prometheus.Observer); ok {
		s.Observe(took)
	}
}

// nameOf finds the longest prefix that a key has, of one part or two.
func (o *Engine) nameOf(key string) Name {
	rest, ok := strings.CutPrefix(key, o.below)
	if !ok {
		return Name{}
	}
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return o.names[rest]
	}
	two := rest
	if second := strings.IndexByte(rest[first+1:], '/'); second >= 0 {
		two = rest[:first+1+second]
	}
	if n, ok := o.names[two]; ok {
		return n
	}
	if n, ok := o.names[rest[:first]]; ok || !strings.Contains(rest[:first], ".") {
		return n
	}
	return Name{Group: rest[:first], Resource: two[first+1:]} // a custom resource's keys begin with its group
}

// size is the size of the database, asked for when somebody wants to know it.
type size struct {
	engine kv.Engine
	name   string
}

var sizeDesc = prometheus.NewDesc("apiserver_storage_size_bytes", "Size of the database in bytes.", []string{"storage_cluster_id"}, nil)

// Describe implements prometheus.Collector. The size is described by nothing, so that several may show theirs: the registry checks what they collect.
func (size) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s size) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), sizeWait)
	defer cancel()
	if n, err := s.engine.Size(ctx); err == nil { // where nobody answers there is nothing to show
		out <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(n), s.name)
	}
}
