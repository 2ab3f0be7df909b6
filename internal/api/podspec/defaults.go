package podspec

import (
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/celox/celox/internal/api/check"
)

// Defaults of the fields that every pod ends up with.
const (
	defaultGracePeriodSeconds     = 30
	defaultTerminationMessagePath = corev1.TerminationMessagePathDefault
	defaultProbeTimeoutSeconds    = 1
	defaultProbePeriodSeconds     = 10
	defaultProbeSuccessThreshold  = 1
	defaultProbeFailureThreshold  = 3
	defaultFileMode               = 0o644
	defaultTokenExpirationSeconds = 60 * 60
	rootPath                      = "/"
)

// SetPodDefaults fills in what pod leaves out. A pod gets more than a template: requests where only limits are set, the host
// ports of the host's network, service links.
func SetPodDefaults(pod *corev1.Pod) {
	dropInitAnnotations(pod.Annotations)
	SetPodSpecDefaults(&pod.Spec)
	s := &pod.Spec
	roundStatus(&pod.Status)
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			setRequests(&list[i].Resources)
		}
	}
	if s.EnableServiceLinks == nil {
		s.EnableServiceLinks = ptr(corev1.DefaultEnableServiceLinks)
	}
	if s.HostNetwork {
		setHostPorts(s.Containers)
		setHostPorts(s.InitContainers)
	}
	SetPodStatusDefaults(&pod.Status)
}

// SetPodStatusDefaults keeps podIP and podIPs in step, whichever of the two was given; podIP wins.
func SetPodStatusDefaults(s *corev1.PodStatus) {
	switch {
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
}

// SetPodTemplateDefaults fills in what t leaves out.
func SetPodTemplateDefaults(t *corev1.PodTemplateSpec) {
	dropInitAnnotations(t.Annotations)
	SetPodSpecDefaults(&t.Spec)
}

// dropInitAnnotations removes the annotations in which init containers were kept before they had a field: nothing reads them
// and nobody should believe that something does.
func dropInitAnnotations(a map[string]string) {
	for _, key := range []string{
		"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
		"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
	} {
		delete(a, key)
	}
}

// setRequests makes a limit the request where none is given.
func setRequests(r *corev1.ResourceRequirements) {
	for name, q := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = q.DeepCopy()
	}
}

// SetPodLevelResources fills in what a pod says about its resources as a whole, if it says anything (KEP-2837): huge pages are limited to what its
// containers may have, requests are those of the containers, else the limits, and limits those of the containers if all of them have one. It comes after
// admission, which may add containers.
func SetPodLevelResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	set := func(list *corev1.ResourceList, from corev1.ResourceList, wanted func(corev1.ResourceName) bool) {
		for name, q := range from {
			if _, ok := (*list)[name]; ok || !resource.IsSupportedPodLevelResource(name) || !wanted(name) {
				continue
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[name] = q.DeepCopy()
		}
	}
	ours := &corev1.Pod{Spec: corev1.PodSpec{Containers: pod.Spec.Containers, InitContainers: pod.Spec.InitContainers}}
	limits := resource.AggregateContainerLimits(ours, resource.PodResourcesOptions{})
	requested := func(n corev1.ResourceName) bool { _, ok := r.Requests[n]; return ok }
	set(&r.Limits, limits, func(n corev1.ResourceName) bool { return check.IsHugePages(n) && !requested(n) })
	set(&r.Requests, resource.AggregateContainerRequests(ours, resource.PodResourcesOptions{}), func(n corev1.ResourceName) bool { return !check.IsHugePages(n) })
	set(&r.Requests, r.Limits, func(corev1.ResourceName) bool { return true })
	// A request that is larger than the containers' limits raises the pod's.
	for name, q := range limits {
		if request := r.Requests[name]; request.Cmp(q) > 0 {
			limits[name] = request
		}
	}
	set(&r.Limits, limits, func(n corev1.ResourceName) bool { return requested(n) && allLimited(&pod.Spec, n) })
}

// allLimited says whether every container has a limit of a resource.
func allLimited(s *corev1.PodSpec, name corev1.ResourceName) bool {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			if _, ok := list[i].Resources.Limits[name]; !ok {
				return false
			}
		}
	}
	return len(s.EphemeralContainers) == 0 // they can have none
}

func setHostPorts(list []corev1.Container) {
	for i := range list {
		for j := range list[i].Ports {
			if p := &list[i].Ports[j]; p.HostPort == 0 {
				p.HostPort = p.ContainerPort
			}
		}
	}
}

// SetPodSpecDefaults fills in what spec leaves out, as far as pods and templates have it in common.
func SetPodSpecDefaults(s *corev1.PodSpec) {
	if s.DNSPolicy == "" {
		s.DNSPolicy = corev1.DNSClusterFirst
	}
	if s.RestartPolicy == "" {
		s.RestartPolicy = corev1.RestartPolicyAlways
	}
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	if s.TerminationGracePeriodSeconds == nil {
		s.TerminationGracePeriodSeconds = ptr[int64](defaultGracePeriodSeconds)
	}
	if s.SchedulerName == "" {
		s.SchedulerName = corev1.DefaultSchedulerName
	}
	SyncServiceAccount(s)
	RoundResources(s.Overhead)
	if r := s.Resources; r != nil {
		RoundResources(r.Limits)
		RoundResources(r.Requests)
	}
	for i := range s.Volumes {
		setVolumeDefaults(&s.Volumes[i].VolumeSource)
	}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			setContainerDefaults(&list[i])
		}
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		setContainerDefaults(&c)
		s.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
}

// SyncServiceAccount keeps serviceAccountName and its old name serviceAccount in step. The new one wins.
func SyncServiceAccount(s *corev1.PodSpec) {
	if s.ServiceAccountName == "" {
		s.ServiceAccountName = s.DeprecatedServiceAccount
	}
	s.DeprecatedServiceAccount = s.ServiceAccountName
}

func setContainerDefaults(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = pullPolicy(c.Image)
	}
	if c.TerminationMessagePath == "" {
		c.TerminationMessagePath = defaultTerminationMessagePath
	}
	if c.TerminationMessagePolicy == "" {
		c.TerminationMessagePolicy = corev1.TerminationMessageReadFile
	}
	for i := range c.Ports {
		if c.Ports[i].Protocol == "" {
			c.Ports[i].Protocol = corev1.ProtocolTCP
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			setFieldRef(from.FieldRef)
			if f := from.FileKeyRef; f != nil && f.Optional == nil {
				f.Optional = ptr(false)
			}
		}
	}
	setProbeDefaults(c.LivenessProbe)
	setProbeDefaults(c.ReadinessProbe)
	setProbeDefaults(c.StartupProbe)
	if l := c.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				setHTTPGet(h.HTTPGet)
			}
		}
	}
	RoundResources(c.Resources.Limits)
	RoundResources(c.Resources.Requests)
}

func roundStatus(s *corev1.PodStatus) {
	RoundResources(s.AllocatedResources)
	if r := s.Resources; r != nil {
		RoundResources(r.Limits)
		RoundResources(r.Requests)
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			RoundResources(list[i].AllocatedResources)
			if r := list[i].Resources; r != nil {
				RoundResources(r.Limits)
				RoundResources(r.Requests)
			}
		}
	}
}

// RoundResources rounds amounts up to the smallest that is kept: a thousandth.
func RoundResources(list corev1.ResourceList) {
	const milli = -3
	for name, q := range list {
		if !q.RoundUp(milli) {
			list[name] = q
		}
	}
}

// pullPolicy is Always for images that may change under their name, which are those with the tag "latest" or none. Of what is no name
// of an image nobody knows.
func pullPolicy(image string) corev1.PullPolicy {
	name, digest, _ := strings.Cut(image, "@")
	_, tag, _ := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
	if tag != "latest" && (tag != "" || digest != "") {
		return corev1.PullIfNotPresent // whether it is a name or not: parsing one costs more than all other defaults of a pod
	}
	return parsedPullPolicy(image)
}

// parsedPullPolicy is pullPolicy for every name.
func parsedPullPolicy(image string) corev1.PullPolicy {
	name, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := name.(reference.Tagged); reference.IsNameOnly(name) || ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func setFieldRef(f *corev1.ObjectFieldSelector) {
	if f != nil && f.APIVersion == "" {
		f.APIVersion = "v1"
	}
}

func setProbeDefaults(p *corev1.Probe) {
	if p == nil {
		return
	}
	for _, f := range []struct {
		field *int32
		value int32
	}{
		{&p.TimeoutSeconds, defaultProbeTimeoutSeconds},
		{&p.PeriodSeconds, defaultProbePeriodSeconds},
		{&p.SuccessThreshold, defaultProbeSuccessThreshold},
		{&p.FailureThreshold, defaultProbeFailureThreshold},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	setHTTPGet(p.HTTPGet)
	if g := p.GRPC; g != nil && g.Service == nil {
		g.Service = ptr("")
	}
}

func setHTTPGet(h *corev1.HTTPGetAction) {
	if h == nil {
		return
	}
	if h.Path == "" {
		h.Path = rootPath
	}
	if h.Scheme == "" {
		h.Scheme = corev1.URISchemeHTTP
	}
}

func ptr[T any](v T) *T { return &v }
