package attachdetach

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"
)

// volumeCounts are the numbers of volumes that are, and should be, attached, counted when somebody asks; upstream's names.
type volumeCounts struct{ c *Controller }

var (
	totalDesc = prometheus.NewDesc("attachdetach_controller_total_volumes", "Number of volumes in A/D Controller", []string{"plugin_name", "state"}, nil)
	inUseDesc = prometheus.NewDesc("storage_count_attachable_volumes_in_use", "Measure number of volumes in use", []string{"node", "volume_plugin"}, nil)
)

// Describe implements prometheus.Collector.
func (volumeCounts) Describe(out chan<- *prometheus.Desc) {
	out <- totalDesc
	out <- inUseDesc
}

// Collect implements prometheus.Collector.
func (v volumeCounts) Collect(out chan<- prometheus.Metric) {
	type row struct {
		desc *prometheus.Desc
		a, b string
	}
	n := map[row]float64{}
	plugin := func(volume *corev1.PersistentVolume) string { return "kubernetes.io/csi:" + volume.Spec.CSI.Driver }
	for _, a := range typed[*storagev1.VolumeAttachment](v.c.attachments.List()) {
		volume, err := v.c.volumes.Get(ptr.Deref(a.Spec.Source.PersistentVolumeName, ""))
		if err == nil && volume.Spec.CSI != nil && a.Name == attachmentName(volume, a.Spec.NodeName) {
			n[row{totalDesc, plugin(volume), "actual_state_of_world"}]++
		}
	}
	for _, node := range v.c.pods.ListIndexFuncValues(podsByNode) {
		found, err := v.c.pods.ByIndex(podsByNode, node)
		if err != nil {
			continue // the index is there
		}
		needed := map[string]bool{}
		for _, p := range typed[*corev1.Pod](found) {
			if terminated(p) {
				continue
			}
			for claim, owned := range claims(p) {
				volume := v.c.attachable(p, claim, owned)
				if volume == nil || needed[volume.Name] {
					continue
				}
				needed[volume.Name] = true
				n[row{totalDesc, plugin(volume), "desired_state_of_world"}]++
				n[row{inUseDesc, node, plugin(volume)}]++
			}
		}
	}
	for r, value := range n {
		out <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, value, r.a, r.b)
	}
}

// newOperations makes the histogram of attaching and detaching, by upstream's names.
func newOperations() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "storage_operation_duration_seconds", Help: "How long operations on volumes took, by plugin, operation and how they ended.",
		Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600},
	}, []string{"volume_plugin", "operation_name", "status", "migrated"})
}

// attached measures from when an attachment was asked for until its driver said that it is made, or that it failed.
func (c *Controller) attached(a *storagev1.VolumeAttachment) {
	status := "success"
	if !a.Status.Attached {
		status = "fail-unknown"
	}
	c.took.WithLabelValues("kubernetes.io/csi:"+a.Spec.Attacher, "volume_attach", status, "false").Observe(c.clock.Since(a.CreationTimestamp.Time).Seconds())
}

// detached measures from when an attachment was to go until it is gone.
func (c *Controller) detached(a *storagev1.VolumeAttachment) {
	took := 0.0 // no driver held it
	if t := a.DeletionTimestamp; t != nil {
		took = c.clock.Since(t.Time).Seconds()
	}
	c.took.WithLabelValues("kubernetes.io/csi:"+a.Spec.Attacher, "volume_detach", "success", "false").Observe(took)
}
