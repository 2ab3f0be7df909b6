package persistentvolume

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// counts are the numbers of volumes and claims, counted when somebody asks.
type counts struct{ volumes, claims cache.Store }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	allVolumes     = describe("pv_collector_total_pv_count", "Gauge measuring total number of persistent volumes", "plugin_name", "volume_mode")
	boundVolumes   = describe("pv_collector_bound_pv_count", "Gauge measuring number of persistent volume currently bound", "storage_class")
	unboundVolumes = describe("pv_collector_unbound_pv_count", "Gauge measuring number of persistent volume currently unbound", "storage_class")
	boundClaims    = describe("pv_collector_bound_pvc_count", "Gauge measuring number of persistent volume claim currently bound", "namespace", "storage_class", "volume_attributes_class")
	unboundClaims  = describe("pv_collector_unbound_pvc_count", "Gauge measuring number of persistent volume claim currently unbound", "namespace", "storage_class", "volume_attributes_class")
)

// Describe implements prometheus.Collector.
func (c *counts) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{allVolumes, boundVolumes, unboundVolumes, boundClaims, unboundClaims} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *counts) Collect(out chan<- prometheus.Metric) {
	type row struct {
		desc   *prometheus.Desc
		labels [3]string
	}
	n := map[row]float64{}
	for _, obj := range c.volumes.List() {
		if v, ok := obj.(*corev1.PersistentVolume); ok {
			d := unboundVolumes
			if v.Status.Phase == corev1.VolumeBound {
				d = boundVolumes
			}
			n[row{d, [3]string{volumehelpers.GetPersistentVolumeClass(v)}}]++
			n[row{allVolumes, [3]string{pluginOf(v), string(ptr.Deref(v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem))}}]++
		}
	}
	for _, obj := range c.claims.List() {
		if p, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			d := unboundClaims
			if p.Status.Phase == corev1.ClaimBound {
				d = boundClaims
			}
			n[row{d, [3]string{p.Namespace, volumehelpers.GetPersistentVolumeClaimClass(p), ptr.Deref(p.Spec.VolumeAttributesClassName, "")}}]++
		}
	}
	for r, value := range n {
		labels := r.labels[:1]
		switch r.desc {
		case allVolumes:
			labels = r.labels[:2]
		case boundClaims, unboundClaims:
			labels = r.labels[:]
		}
		out <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, value, labels...)
	}
}

// pluginOf names what is behind a volume, as upstream's plugins are called.
func pluginOf(v *corev1.PersistentVolume) string {
	switch s := &v.Spec; {
	case s.CSI != nil:
		return "kubernetes.io/csi:" + s.CSI.Driver
	case s.HostPath != nil:
		return "kubernetes.io/host-path"
	case s.Local != nil:
		return "kubernetes.io/local-volume"
	case s.NFS != nil:
		return "kubernetes.io/nfs"
	case s.ISCSI != nil:
		return "kubernetes.io/iscsi"
	case s.FC != nil:
		return "kubernetes.io/fc"
	}
	return "N/A"
}
