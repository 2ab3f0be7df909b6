package node

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/probe"
	"github.com/celox/celox/internal/node/stats"
)

// counters are what the node counts as it goes.
type counters struct {
	probes    *prometheus.CounterVec
	podStarts prometheus.Histogram
	// hookFallbacks counts hooks that were answered in plain HTTP although they ask for HTTPS.
	hookFallbacks prometheus.Counter

	podsStarted, podErrors                              prometheus.Counter
	containersStarted, containerErrors, containersEnded *prometheus.CounterVec
	rejections                                          *prometheus.CounterVec
}

// all are those of the kubelet's own page.
func (c *counters) all() []prometheus.Collector {
	return []prometheus.Collector{
		c.podStarts, c.hookFallbacks, c.podsStarted, c.podErrors, c.containersStarted, c.containerErrors, c.containersEnded, c.rejections,
	}
}

func newCounters() *counters {
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
	}
	by := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, labels)
	}
	return &counters{
		podsStarted:       one("started_pods_total", "Sandboxes of pods that were started."),
		podErrors:         one("started_pods_errors_total", "Sandboxes of pods that could not be started."),
		containersStarted: by("started_containers_total", "Containers that were to be started.", "container_type"),
		containerErrors:   by("started_containers_errors_total", "Containers that could not be started, by the reason that their status shows.", "container_type", "code"),
		containersEnded:   by("terminated_containers_total", "Containers that ended.", "container_type", "exit_code", "reason"),
		rejections:        by("admission_rejections_total", "Pods that were not let in.", "reason"),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		podStarts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pod_start_duration_seconds", Help: "Duration in seconds from the node seeing a pod for the first time to the pod starting to run.",
			Buckets: []float64{0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300},
		}),
		hookFallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_lifecycle_handler_http_fallbacks_total", Help: "The number of hooks over HTTPS that worked over HTTP only.",
		}),
	}
}

func (c *counters) probe(pod *corev1.Pod, container string, kind probe.Kind, result string) {
	c.probes.WithLabelValues(kind.String(), result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
}

// containerType is a container's part in its pod, as metrics name it.
func containerType(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return "init_container"
		}
	}
	if isEphemeral(pod, name) {
		return "ephemeral_container"
	}
	return "container"
}

// ended counts the end of a container.
func (c *counters) ended(pod *corev1.Pod, o *observed.Container) {
	reason := o.Reason
	if reason == "" {
		if reason = "Completed"; o.ExitCode != 0 {
			reason = "Error"
		}
	}
	c.containersEnded.WithLabelValues(containerType(pod, o.Name), strconv.Itoa(int(o.ExitCode)), reason).Inc()
}

// forget drops the series of a pod that is gone.
func (c *counters) forget(uid string) { c.probes.DeletePartialMatch(prometheus.Labels{"pod_uid": uid}) }

type registries struct {
	own, probes, cadvisor, resource *prometheus.Registry
}

func (n *Node) registries(b *backend) registries {
	r := registries{prometheus.NewRegistry(), prometheus.NewRegistry(), prometheus.NewRegistry(), prometheus.NewRegistry()}
	r.own.MustRegister(append(n.counters.all(), &ownMetrics{b})...)
	r.own.MustRegister(n.plugged.Metrics()...)
	if n.logins != nil {
		r.own.MustRegister(n.logins.Metrics()...)
	}
	r.probes.MustRegister(n.counters.probes)
	r.cadvisor.MustRegister(&usageMetrics{b, true})
	r.resource.MustRegister(&usageMetrics{b, false})
	return r
}

// allMetrics are the node's and those of what else runs for it.
func (n *Node) allMetrics(own prometheus.Gatherer) prometheus.Gatherer {
	if n.cfg.Metrics == nil {
		return own
	}
	return prometheus.Gatherers{own, n.cfg.Metrics}
}

// scrapeTimeout bounds what a scrape may ask of the runtime.
const scrapeTimeout = 10 * time.Second

func gauge(ch chan<- prometheus.Metric, name, help string, value float64, labels []string, values ...string) {
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, value, values...)
}

func counter(ch chan<- prometheus.Metric, name, help string, value float64, labels []string, values ...string) {
	ch <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, value, values...)
}

// ownMetrics are the kubelet's metrics about itself.
type ownMetrics struct{ b *backend }

// Describe sends nothing: which series exist depends on the pods.
func (*ownMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect measures.
func (m *ownMetrics) Collect(ch chan<- prometheus.Metric) {
	pods, containers := stats.PodPhaseRunning(m.b.Pods())
	gauge(ch, "kubelet_running_pods", "Number of pods that have a running pod sandbox", float64(pods), nil)
	for state, count := range containers {
		gauge(ch, "kubelet_running_containers", "Number of containers currently running", float64(count), []string{"container_state"}, state)
	}
	gauge(ch, "kubelet_node_name", "The node's name. The count is always 1.", 1, []string{"node"}, m.b.n.cfg.NodeName)
	gauge(ch, "kubernetes_build_info", "A metric with a constant '1' value labeled by version.", 1, []string{"git_version"}, m.b.n.cfg.Version)
}

// usageMetrics are what pods and the node use, under the names of cAdvisor or of the resource metrics endpoint.
type usageMetrics struct {
	b        *backend
	cadvisor bool
}

// Describe sends nothing: which series exist depends on the pods.
func (*usageMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect measures.
func (m *usageMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	s, err := m.b.Summary(ctx)
	if !m.cadvisor {
		failed := 0.0
		if err != nil {
			failed = 1
		}
		gauge(ch, "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", failed, nil)
	}
	if err != nil {
		return
	}
	if m.cadvisor {
		m.collectCadvisor(ctx, ch, s)
		return
	}
	m.collectResource(ch, s)
}

// collectResource says when each thing was counted: who computes rates may read it much later.
func (m *usageMetrics) collectResource(ch chan<- prometheus.Metric, s *statsapi.Summary) {
	at := func(when metav1.Time, kind prometheus.ValueType, name, help string, value float64, labels []string, values ...string) {
		out := prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, labels, nil), kind, value, values...)
		if !when.IsZero() {
			out = prometheus.NewMetricWithTimestamp(when.Time, out)
		}
		ch <- out
	}
	cpu := func(name, help string, c *statsapi.CPUStats, labels []string, values ...string) {
		if c != nil && c.UsageCoreNanoSeconds != nil {
			at(c.Time, prometheus.CounterValue, name, help, float64(*c.UsageCoreNanoSeconds)/1e9, labels, values...)
		}
	}
	memory := func(name, help string, c *statsapi.MemoryStats, labels []string, values ...string) {
		if c != nil && c.WorkingSetBytes != nil {
			at(c.Time, prometheus.GaugeValue, name, help, float64(*c.WorkingSetBytes), labels, values...)
		}
	}
	cpu("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", s.Node.CPU, nil)
	memory("node_memory_working_set_bytes", "Current working set of the node in bytes", s.Node.Memory, nil)
	podLabels := []string{"namespace", "pod"}
	labels := []string{"container", "namespace", "pod"}
	for i := range s.Pods {
		p := &s.Pods[i]
		cpu("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", p.CPU, podLabels, p.PodRef.Namespace, p.PodRef.Name)
		memory("pod_memory_working_set_bytes", "Current working set of the pod in bytes", p.Memory, podLabels, p.PodRef.Namespace, p.PodRef.Name)
		for j := range p.Containers {
			c := &p.Containers[j]
			cpu("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", c.CPU, labels, c.Name, p.PodRef.Namespace, p.PodRef.Name)
			memory("container_memory_working_set_bytes", "Current working set of the container in bytes", c.Memory, labels, c.Name, p.PodRef.Namespace, p.PodRef.Name)
			if w := c.Swap; w != nil && w.SwapUsageBytes != nil {
				at(w.Time, prometheus.GaugeValue, "container_swap_usage_bytes", "Current amount of the container swap usage in bytes", float64(*w.SwapUsageBytes), labels, c.Name, p.PodRef.Namespace, p.PodRef.Name)
			}
			if !c.StartTime.IsZero() {
				at(metav1.Time{}, prometheus.GaugeValue, "container_start_time_seconds", "Start time of the container since unix epoch in seconds", float64(c.StartTime.UnixNano())/1e9, labels, c.Name, p.PodRef.Namespace, p.PodRef.Name)
			}
		}
	}
}

func (m *usageMetrics) collectCadvisor(ctx context.Context, ch chan<- prometheus.Metric, s *statsapi.Summary) {
	gauge(ch, "machine_cpu_cores", "Number of logical CPU cores.", float64(m.b.n.cpus()), nil)
	gauge(ch, "machine_memory_bytes", "Amount of memory installed on the machine.", float64(m.b.n.memoryBytes), nil)
	type identity struct{ id, image string }
	ids := map[[3]string]identity{}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	if list, err := m.b.n.cfg.Runtime.ListContainers(ctx, running); err == nil {
		for _, c := range list {
			ids[[3]string{c.Labels[observed.LabelPodNamespace], c.Labels[observed.LabelPodName], c.GetMetadata().GetName()}] = identity{c.Id, c.GetImage().GetImage()}
		}
	}
	labels := []string{"container", "id", "image", "name", "namespace", "pod"}
	send := func(counts bool, name, help string, v *uint64, scale float64, extra []string, values ...string) {
		if v == nil {
			return
		}
		all := append(append([]string{}, labels...), extra...)
		if counts {
			counter(ch, name, help, float64(*v)/scale, all, values...)
		} else {
			gauge(ch, name, help, float64(*v)/scale, all, values...)
		}
	}
	one := func(container, id, image, namespace, pod string, cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, fs *statsapi.FsStats) {
		v := []string{container, id, image, id, namespace, pod}
		if cpu != nil {
			send(true, "container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", cpu.UsageCoreNanoSeconds, 1e9, []string{"cpu"}, append(v, "total")...)
		}
		if memory != nil {
			send(false, "container_memory_working_set_bytes", "Current working set in bytes.", memory.WorkingSetBytes, 1, nil, v...)
			send(false, "container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", memory.UsageBytes, 1, nil, v...)
			send(false, "container_memory_rss", "Size of RSS in bytes.", memory.RSSBytes, 1, nil, v...)
		}
		if fs != nil {
			send(false, "container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", fs.UsedBytes, 1, []string{"device"}, append(v, "")...)
		}
	}
	// How long tasks of a group waited (some of them) or stood still (all of them) for want of something, in microseconds of the kernel's.
	pressure := func(what string, p *statsapi.PSIStats, values ...string) {
		if p == nil {
			return
		}
		send(true, "container_pressure_"+what+"_waiting_seconds_total", "Total time duration tasks in the container have waited for "+what+".", &p.Some.Total, 1e6, nil, values...)
		send(true, "container_pressure_"+what+"_stalled_seconds_total", "Total time duration no tasks in the container could make progress for want of "+what+".", &p.Full.Total, 1e6, nil, values...)
	}
	pressures := func(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, io *statsapi.IOStats, values ...string) {
		if cpu != nil {
			pressure("cpu", cpu.PSI, values...)
		}
		if memory != nil {
			pressure("memory", memory.PSI, values...)
		}
		if io != nil {
			pressure("io", io.PSI, values...)
		}
	}
	one("", "/", "", "", "", s.Node.CPU, s.Node.Memory, nil)
	for i := range s.Pods {
		p := &s.Pods[i]
		ns, name := p.PodRef.Namespace, p.PodRef.Name
		one("", "/kubepods/pod"+p.PodRef.UID, "", ns, name, p.CPU, p.Memory, nil)
		pressures(p.CPU, p.Memory, p.IO, "", "/kubepods/pod"+p.PodRef.UID, "", "", ns, name)
		for j := range p.Containers {
			c := &p.Containers[j]
			id := ids[[3]string{ns, name, c.Name}]
			one(c.Name, id.id, id.image, ns, name, c.CPU, c.Memory, c.Rootfs)
			pressures(c.CPU, c.Memory, c.IO, c.Name, id.id, id.image, id.id, ns, name)
			if !c.StartTime.IsZero() {
				gauge(ch, "container_start_time_seconds", "Start time of the container since unix epoch in seconds.", float64(c.StartTime.Unix()), labels, c.Name, id.id, id.image, id.id, ns, name)
			}
		}
		if p.Network == nil {
			continue
		}
		for _, n := range p.Network.Interfaces {
			v := []string{"", "/kubepods/pod" + p.PodRef.UID, "", "", ns, name, n.Name}
			send(true, "container_network_receive_bytes_total", "Cumulative count of bytes received", n.RxBytes, 1, []string{"interface"}, v...)
			send(true, "container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", n.TxBytes, 1, []string{"interface"}, v...)
			send(true, "container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", n.RxErrors, 1, []string{"interface"}, v...)
			send(true, "container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", n.TxErrors, 1, []string{"interface"}, v...)
		}
	}
}
