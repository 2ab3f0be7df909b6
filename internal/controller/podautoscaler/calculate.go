package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/clock"
)

const (
	// defaultTolerance is how far usage may be from its target before something is done, unless an autoscaler says otherwise.
	defaultTolerance = 0.1
	// cpuInitialization is how long after its start a pod's CPU usage counts only while it is ready: programs that start are busy.
	cpuInitialization = 5 * time.Minute
	// initialReadiness is how long after its start a pod that turned unready is taken for one that has never been ready.
	initialReadiness = 30 * time.Second
)

// tolerance is how far the ratio of usage to target may be from one, below and above.
type tolerance struct{ down, up float64 }

func toleranceOf(h *autoscalingv2.HorizontalPodAutoscaler) tolerance {
	t := tolerance{defaultTolerance, defaultTolerance}
	if b := h.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

func (t tolerance) allows(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// calculator computes how many pods usage asks for.
type calculator struct {
	source Source
	pods   corelisters.PodLister
	clock  clock.PassiveClock
}

// proposal is how many pods one metric asks for, and what it was measured at.
type proposal struct {
	replicas int32
	// utilization is in percent of the request, where the target is; usage is in thousandths, per pod or in total as the target is.
	utilization int32
	usage       int64
}

// workload is whose size is computed.
type workload struct {
	namespace string
	selector  labels.Selector
	// spec and status are the sizes that the scale wants and has.
	spec, status int32
	tolerance    tolerance
}

// ceil rounds up to what a number of pods can be.
func ceil(f float64) int32 {
	f = math.Ceil(f)
	if f > math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(f)
}

// utilization follows a target in percent of what the pods request.
func (c *calculator) utilization(ctx context.Context, w workload, resource corev1.ResourceName, container string, target int32) (proposal, error) {
	samples, err := c.source.Resource(ctx, w.namespace, w.selector, resource, container)
	if err != nil {
		return proposal{}, fmt.Errorf("unable to get metrics for resource %s: %w", resource, err)
	}
	pods, err := c.list(w)
	if err != nil {
		return proposal{}, err
	}
	g := c.group(pods, samples, resource)
	samples.without(g.ignored)
	samples.without(g.unready)
	if len(samples) == 0 {
		return proposal{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	requests, err := requests(pods, container, resource)
	if err != nil {
		return proposal{}, err
	}
	ratio := func(s Samples) (float64, int32, int64, error) {
		var used, requested, n int64
		for name, sample := range s {
			if r, ok := requests[name]; ok { // a sample may be of a pod that has gone since
				used, requested, n = used+sample.Value, requested+r, n+1
			}
		}
		if requested == 0 {
			return 0, 0, 0, errors.New("no metrics returned matched known pods")
		}
		percent := int32(min(used*100/requested, math.MaxInt32))
		return float64(percent) / float64(target), percent, used / n, nil
	}
	now, percent, usage, err := ratio(samples)
	if err != nil {
		return proposal{}, err
	}
	p := proposal{replicas: w.spec, utilization: percent, usage: usage}
	p.replicas, err = w.resize(now, g, samples, func(name string) int64 {
		return requests[name] * int64(max(100, target)) / 100
	}, func(s Samples) (float64, error) {
		again, _, _, err := ratio(s)
		return again, err
	})
	return p, err
}

// average follows a target per pod.
func (c *calculator) average(w workload, samples Samples, resource corev1.ResourceName, target int64) (proposal, error) {
	pods, err := c.list(w)
	if err != nil {
		return proposal{}, err
	}
	g := c.group(pods, samples, resource)
	samples.without(g.ignored)
	samples.without(g.unready)
	if len(samples) == 0 {
		return proposal{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	ratio := func(s Samples) (float64, int64) {
		var used int64
		for _, sample := range s {
			used += sample.Value
		}
		used /= int64(len(s))
		return float64(used) / float64(target), used
	}
	now, usage := ratio(samples)
	n, err := w.resize(now, g, samples, func(string) int64 { return target }, func(s Samples) (float64, error) {
		again, _ := ratio(s)
		return again, nil
	})
	return proposal{replicas: n, usage: usage}, err
}

// resize turns a ratio of usage to target into a size. Pods without a sample are taken for what slows the change down most: for calm, when there are too
// many pods, for idle when there are too few; pods that are not ready yet are idle when there are too few. Samples is changed.
func (w workload) resize(ratio float64, g groups, samples Samples, calm func(pod string) int64, again func(Samples) (float64, error)) (int32, error) {
	withUnready := len(g.unready) > 0 && ratio > 1
	if !withUnready && len(g.missing) == 0 {
		if w.tolerance.allows(ratio) {
			return w.spec, nil
		}
		return ceil(ratio * float64(g.ready)), nil
	}
	for name := range g.missing {
		switch {
		case ratio < 1:
			samples[name] = Sample{Value: calm(name)}
		case ratio > 1:
			samples[name] = Sample{}
		}
	}
	if withUnready {
		for name := range g.unready {
			samples[name] = Sample{}
		}
	}
	cautious, err := again(samples)
	if err != nil {
		return 0, err
	}
	if w.tolerance.allows(cautious) || ratio < 1 && cautious > 1 || ratio > 1 && cautious < 1 {
		return w.spec, nil // too little, or the other way round
	}
	n := ceil(cautious * float64(len(samples)))
	if cautious < 1 && n > w.spec || cautious > 1 && n < w.spec {
		return w.spec, nil // the number of samples is not that of pods
	}
	return n, nil
}

// total follows a target for the sum, whatever the number of pods.
func (c *calculator) total(w workload, usage, target int64) (proposal, error) {
	ratio := float64(usage) / float64(target)
	p := proposal{replicas: w.spec, usage: usage}
	switch {
	case w.spec == 0:
		p.replicas = ceil(ratio)
	case !w.tolerance.allows(ratio):
		ready, err := c.ready(w)
		if err != nil {
			return proposal{}, fmt.Errorf("unable to calculate ready pods: %w", err)
		}
		p.replicas = ceil(ratio * float64(ready))
	}
	return p, nil
}

// share follows a target per pod for a sum that is not measured by pod.
func (c *calculator) share(w workload, usage, target int64) proposal {
	p := proposal{replicas: w.status}
	if !w.tolerance.allows(float64(usage) / (float64(target) * float64(w.status))) {
		p.replicas = ceil(float64(usage) / float64(target))
	}
	if w.status > 0 {
		p.usage = int64(math.Ceil(float64(usage) / float64(w.status)))
	}
	return p
}

func (c *calculator) list(w workload) ([]*corev1.Pod, error) {
	pods, err := c.pods.Pods(w.namespace).List(w.selector)
	if err != nil {
		return nil, fmt.Errorf("unable to get pods while calculating replica count: %w", err)
	}
	if len(pods) == 0 {
		return nil, errors.New("no pods returned by selector while calculating replica count")
	}
	return pods, nil
}

func (c *calculator) ready(w workload) (n int, err error) {
	pods, err := c.list(w)
	for _, p := range pods {
		if ready := readiness(p); p.Status.Phase == corev1.PodRunning && ready != nil && ready.Status == corev1.ConditionTrue {
			n++
		}
	}
	return n, err
}

func readiness(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// groups is what samples can be believed: those of ready pods. The names are of pods that are on their way out, not ready yet, or not measured.
type groups struct {
	ready                     int
	ignored, unready, missing map[string]bool
}

func (c *calculator) group(pods []*corev1.Pod, samples Samples, resource corev1.ResourceName) groups {
	g := groups{ignored: map[string]bool{}, unready: map[string]bool{}, missing: map[string]bool{}}
	now := c.clock.Now()
	for _, p := range pods {
		sample, measured := samples[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			g.ignored[p.Name] = true
		case p.Status.Phase == corev1.PodPending:
			g.unready[p.Name] = true
		case !measured:
			g.missing[p.Name] = true
		case resource == corev1.ResourceCPU && starting(p, sample, now):
			g.unready[p.Name] = true
		default:
			g.ready++
		}
	}
	return g
}

// starting says that a sample of CPU usage tells of a pod's start rather than of its work.
func starting(p *corev1.Pod, s Sample, now time.Time) bool {
	ready := readiness(p)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	if p.Status.StartTime.Add(cpuInitialization).After(now) {
		return ready.Status == corev1.ConditionFalse || s.At.Before(ready.LastTransitionTime.Add(s.Window))
	}
	// Unready since shortly after its start: it has never been ready.
	return ready.Status == corev1.ConditionFalse && p.Status.StartTime.Add(initialReadiness).After(ready.LastTransitionTime.Time)
}

// requests is what each pod, or one container of it, requests of a resource, in thousandths.
func requests(pods []*corev1.Pod, container string, resource corev1.ResourceName) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, p := range pods {
		if container == "" && resourcehelper.IsPodLevelRequestsSet(p) {
			q, ok := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[resource]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", resource, p.Name)
			}
			out[p.Name] = q.MilliValue()
			continue
		}
		sum, found := int64(0), container == ""
		add := func(c *corev1.Container) error {
			if container != "" && (c.Name != container || found) {
				return nil
			}
			found = true
			q, ok := c.Resources.Requests[resource]
			if !ok {
				return fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, p.Name)
			}
			sum += q.MilliValue()
			return nil
		}
		for i := range p.Spec.Containers {
			if err := add(&p.Spec.Containers[i]); err != nil {
				return nil, err
			}
		}
		for i := range p.Spec.InitContainers { // those that stay
			if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				if err := add(c); err != nil {
					return nil, err
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
		}
		out[p.Name] = sum
	}
	return out, nil
}
