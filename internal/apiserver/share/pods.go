package share

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The wire tags of what is shared.
const (
	podMetadata, podSpec   = 1, 2
	metaLabels, metaOwners = 11, 13
	specNodeName           = 10
)

// Pods shares what is equal in pods. It is safe for concurrent use.
type Pods struct {
	specs  table[*corev1.PodSpec] // without node
	labels table[map[string]string]
	owners table[[]metav1.OwnerReference]
	words  words
	nodes  words     // and their addresses: there may be more of them than words
	keys   sync.Pool // *podKeys
}

// podKeys are the stored bytes of a pod's parts.
type podKeys struct{ spec, labels, owners []byte }

// Share replaces parts of a pod by equal ones of other pods. Value is the pod as it is stored.
func (p *Pods) Share(pod *corev1.Pod, value []byte) {
	k, ok := p.keys.Get().(*podKeys)
	if !ok {
		k = &podKeys{}
	}
	defer p.keys.Put(k)
	if !k.of(message(value)) {
		return
	}
	node := pod.Spec.NodeName
	if len(k.spec) > 0 {
		spec, ok := p.specs.find(k.spec)
		if !ok {
			own := pod.Spec
			own.NodeName = ""
			spec = p.specs.of(k.spec, &own)
		}
		pod.Spec = *spec
	}
	pod.Spec.NodeName = node
	if len(k.labels) > 0 {
		pod.Labels = p.labels.of(k.labels, pod.Labels)
	}
	if len(k.owners) > 0 {
		pod.OwnerReferences = p.owners.of(k.owners, pod.OwnerReferences)
	}
	s := &pod.Status
	p.words.share(&pod.GenerateName, (*string)(&s.Phase), (*string)(&s.QOSClass))
	p.nodes.share(&pod.Spec.NodeName, &s.HostIP)
	// Lists may be those of an older state of the pod, which others read: they are copied before a word in them is replaced.
	s.Conditions = each(s.Conditions, func(c *corev1.PodCondition) bool {
		return p.words.share((*string)(&c.Type), (*string)(&c.Status), &c.Reason)
	})
	container := func(c *corev1.ContainerStatus) bool { return p.words.share(&c.Name, &c.Image, &c.ImageID) }
	s.InitContainerStatuses = each(s.InitContainerStatuses, container)
	s.ContainerStatuses = each(s.ContainerStatuses, container)
	s.HostIPs = each(s.HostIPs, func(a *corev1.HostIP) bool { return p.nodes.share(&a.IP) })
}

// each has f change copies of a list's items, and returns a list with those that it says are other.
func each[T any](list []T, f func(*T) bool) []T {
	copied := false
	var item T
	for i := range list {
		if item = list[i]; !f(&item) {
			continue
		}
		if !copied {
			list, copied = slices.Clone(list), true
		}
		list[i] = item
	}
	return list
}

// of finds the parts of a stored pod. False: it is none.
func (k *podKeys) of(pod []byte) bool {
	k.spec, k.labels, k.owners = k.spec[:0], k.labels[:0], k.owners[:0]
	read := len(pod) > 0
	within := func(number uint64, value, _ []byte) {
		switch number {
		case podMetadata:
			read = fields(value, k.metadata) && read
		case podSpec:
			read = fields(value, k.podSpec) && read
		}
	}
	return fields(pod, within) && read
}

func (k *podKeys) metadata(number uint64, _, whole []byte) {
	switch number {
	case metaLabels:
		k.labels = append(k.labels, whole...)
	case metaOwners:
		k.owners = append(k.owners, whole...)
	}
}

func (k *podKeys) podSpec(number uint64, _, whole []byte) {
	if number != specNodeName {
		k.spec = append(k.spec, whole...)
	}
}
