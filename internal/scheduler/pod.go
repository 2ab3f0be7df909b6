package scheduler

import (
	"cmp"
	"encoding/binary"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/component-helpers/scheduling/corev1"

	podresource "k8s.io/component-helpers/resource"
)

// What a container that requests nothing counts for in scores, as upstream has it.
const (
	defaultMilliCPU    = 100
	defaultMemoryBytes = 200 << 20
)

// requests is what a pod asks for.
type requests struct {
	milliCPU, memoryBytes, ephemeralBytes int64
	extended                              []request // sorted by resource
}

type request struct {
	resource uint32
	amount   int64
}

func (r *requests) equal(o *requests) bool {
	return r.milliCPU == o.milliCPU && r.memoryBytes == o.memoryBytes && r.ephemeralBytes == o.ephemeralBytes && slices.Equal(r.extended, o.extended)
}

// hostPort is a port of the node that a pod wants for itself.
type hostPort struct {
	ip, protocol string
	port         int32
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == "0.0.0.0" || o.ip == "0.0.0.0" || p.ip == o.ip)
}

// Pod is a pod as the plugins see it. It belongs to the snapshot that made it and isn't changed any more.
type Pod struct {
	pod                     *v1.Pod
	profile                 *profile
	priority                int32
	requests                requests
	scoredCPU, scoredMemory int64
	ports                   []hostPort
	selector                nodeSelector
	preferred               []preferredTerm
	// only are the nodes that the pod's affinity names by their names, if it does so in all its terms (a DaemonSet's pods).
	only       []string
	images     []uint32
	containers int
	others     *podRules // what it demands of other pods; nil without
	volumes    *podVolumes
	// restartsAll says that the node must be able to start all containers again together.
	restartsAll bool
	// key is equal for pods of one class.
	key string
}

func (p *Pod) uid() types.UID { return p.pod.UID }

// NewPod reads what matters of a pod. Of a pod that is on a node already only what others must know is read.
func (s *Snapshot) NewPod(pod *v1.Pod) *Pod {
	p := &Pod{pod: pod, priority: corev1.PodPriority(pod), profile: s.profileOf(pod.Spec.SchedulerName)}
	s.readRequests(p)
	p.ports = hostPorts(pod)
	p.others = s.newPodRules(pod)
	p.volumes = newPodVolumes(pod)
	if pod.Spec.NodeName != "" {
		return p
	}
	var affinity *v1.NodeAffinity
	if a := pod.Spec.Affinity; a != nil {
		affinity = a.NodeAffinity
	}
	p.selector = s.newNodeSelector(pod.Spec.NodeSelector, affinity)
	p.preferred = s.newPreferred(affinity)
	p.only = onlyNodes(affinity)
	for _, cs := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			p.images = append(p.images, s.images.id(imageName(cs[i].Image)))
		}
	}
	slices.Sort(p.images)
	p.containers = len(pod.Spec.InitContainers) + len(pod.Spec.Containers)
	p.restartsAll = wantsRestartOfAll(&pod.Spec)
	p.key = p.classKey()
	return p
}

// readRequests reads what a pod asks for, and what it counts for in scores.
func (s *Snapshot) readRequests(p *Pod) {
	if isPlain(p.pod) {
		s.addPlain(p)
		return
	}
	opts := podresource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	all := podresource.PodRequests(p.pod, opts)
	for name, q := range all {
		s.addRequest(&p.requests, name, q)
	}
	slices.SortFunc(p.requests.extended, func(a, b request) int { return cmp.Compare(a.resource, b.resource) })
	p.scoredCPU, p.scoredMemory = p.requests.milliCPU, p.requests.memoryBytes
	if incomplete(p.pod) {
		opts.NonMissingContainerRequests = v1.ResourceList{
			v1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
			v1.ResourceMemory: *resource.NewQuantity(defaultMemoryBytes, resource.BinarySI),
		}
		if podresource.IsPodLevelRequestsSet(p.pod) {
			// What the pod itself requests is not for its containers to complete.
			for name := range all {
				delete(opts.NonMissingContainerRequests, name)
			}
		}
		scored := podresource.PodRequests(p.pod, opts)
		p.scoredCPU, p.scoredMemory = scored.Cpu().MilliValue(), scored.Memory().Value()
	}
}

// isPlain says of a pod that its requests are the sum of those of its containers: nothing else in its specification or status counts.
func isPlain(pod *v1.Pod) bool {
	return len(pod.Spec.InitContainers) == 0 && len(pod.Spec.Overhead) == 0 && pod.Spec.Resources == nil && len(pod.Status.ContainerStatuses) == 0
}

// addPlain adds up the requests of a plain pod; this is where most of the time went when quantities were added.
func (s *Snapshot) addPlain(p *Pod) {
	containers := p.pod.Spec.Containers
	for i := range containers {
		var one requests
		cpu, memory := false, false
		for name, q := range containers[i].Resources.Requests {
			cpu = cpu || name == v1.ResourceCPU
			memory = memory || name == v1.ResourceMemory
			s.addRequest(&one, name, q)
		}
		p.requests.milliCPU += one.milliCPU
		p.requests.memoryBytes += one.memoryBytes
		p.requests.ephemeralBytes += one.ephemeralBytes
		p.scoredCPU += one.milliCPU
		p.scoredMemory += one.memoryBytes
		if !cpu {
			p.scoredCPU += defaultMilliCPU
		}
		if !memory {
			p.scoredMemory += defaultMemoryBytes
		}
		for _, e := range one.extended {
			if k := slices.IndexFunc(p.requests.extended, func(o request) bool { return o.resource == e.resource }); k >= 0 {
				p.requests.extended[k].amount += e.amount
			} else {
				p.requests.extended = append(p.requests.extended, e)
			}
		}
	}
	slices.SortFunc(p.requests.extended, func(a, b request) int { return cmp.Compare(a.resource, b.resource) })
}

func (s *Snapshot) addRequest(r *requests, name v1.ResourceName, q resource.Quantity) {
	switch name {
	case v1.ResourceCPU:
		r.milliCPU = q.MilliValue()
	case v1.ResourceMemory:
		r.memoryBytes = q.Value()
	case v1.ResourceEphemeralStorage:
		r.ephemeralBytes = q.Value()
	default:
		if n := q.Value(); n != 0 {
			r.extended = append(r.extended, request{s.resources.id(string(name)), n})
		}
	}
}

// incomplete says whether a container leaves out what scores go by.
func incomplete(pod *v1.Pod) bool {
	for _, cs := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			r := cs[i].Resources.Requests
			if _, ok := r[v1.ResourceCPU]; !ok {
				return true
			}
			if _, ok := r[v1.ResourceMemory]; !ok {
				return true
			}
		}
	}
	return false
}

// hostPorts are those of all containers that run at the same time: init containers only if they go on running.
func hostPorts(pod *v1.Pod) []hostPort {
	var out []hostPort
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				out = append(out, hostPort{cmp.Or(p.HostIP, "0.0.0.0"), cmp.Or(string(p.Protocol), string(v1.ProtocolTCP)), p.HostPort})
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

// classKey is a form of everything that the plugins with kept results look at. It is compared, never read.
func (p *Pod) classKey() string {
	b := make([]byte, 0, 256)
	num := func(n int64) { b = binary.AppendVarint(b, n) }
	str := func(s string) {
		num(int64(len(s)))
		b = append(b, s...)
	}
	num(int64(p.profile.index))
	num(p.requests.milliCPU)
	num(p.requests.memoryBytes)
	num(p.requests.ephemeralBytes)
	num(p.scoredCPU)
	num(p.scoredMemory)
	num(int64(len(p.requests.extended)))
	for _, e := range p.requests.extended {
		num(int64(e.resource))
		num(e.amount)
	}
	num(int64(len(p.ports)))
	for _, h := range p.ports {
		str(h.ip)
		str(h.protocol)
		num(int64(h.port))
	}
	if p.restartsAll {
		num(1)
	} else {
		num(0)
	}
	spec := &p.pod.Spec
	keys := make([]string, 0, len(spec.NodeSelector))
	for k := range spec.NodeSelector {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	num(int64(len(keys)))
	for _, k := range keys {
		str(k)
		str(spec.NodeSelector[k])
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		// The protobuf form is the same for equal affinities: there are no maps in them.
		if a, err := spec.Affinity.NodeAffinity.Marshal(); err == nil {
			str(string(a))
		}
	} else {
		num(-1)
	}
	num(int64(len(spec.Tolerations)))
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		str(t.Key)
		str(string(t.Operator))
		str(t.Value)
		str(string(t.Effect))
	}
	num(int64(p.containers))
	for _, i := range p.images {
		num(int64(i))
	}
	return string(b)
}
