package apiserver

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
)

// contents are metrics about what is stored, counted when somebody asks.
type contents struct{ s *Server }

var (
	objectsDesc = prometheus.NewDesc("apiserver_resource_objects", "Objects that are stored, by resource.", []string{"group", "resource"}, nil)
	// storageDesc is the name that objectsDesc had before v1.34; dashboards know it.
	storageDesc = prometheus.NewDesc("apiserver_storage_objects", "Objects that are stored, by resource.", []string{"resource"}, nil)
)

// Describe implements prometheus.Collector.
func (contents) Describe(out chan<- *prometheus.Desc) {
	out <- objectsDesc
	out <- storageDesc
}

// Collect implements prometheus.Collector.
func (c contents) Collect(out chan<- prometheus.Metric) {
	send := func(gr schema.GroupResource) {
		col, ok := c.s.cfg.Store.Collection(gr)
		if !ok {
			return // nobody has asked for its objects yet
		}
		n := float64(col.Len())
		out <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, n, gr.Group, gr.Resource)
		out <- prometheus.MustNewConstMetric(storageDesc, prometheus.GaugeValue, n, gr.String())
	}
	for _, k := range c.s.cfg.Catalogue.Kinds() {
		if !k.Virtual {
			send(k.GroupResource())
		}
	}
	for _, group := range c.s.customs.Groups() {
		all, _ := c.s.customs.Definitions(group)
		for _, served := range all {
			send(served.GroupResource())
		}
	}
}

// buildInfo is the metric that says which version this is.
func buildInfo(v apiversion.Info) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", Help: "1, labelled with the version.",
		ConstLabels: prometheus.Labels{
			"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform,
		},
	})
	g.Set(1)
	return g
}
