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
