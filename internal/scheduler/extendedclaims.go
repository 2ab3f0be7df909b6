package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/scheduler/dynamicresources"
)

// Extended resources that a class of devices stands for (KEP-5004): a pod asks for them as for any extended resource. On nodes that have the resource themselves they are counted as
// ever; on others the pod gets devices of the class, by a claim that the scheduler makes for it.

// extendedClaim is what a pod asks for in this way.
type extendedClaim struct {
	p *Pod
	// resources are those of the pod's extended resources that a class stands for.
	resources []uint32
	// asks are prepared claims, by which of the resources (bit by bit) are to be devices; on nodes that have some themselves it is the others.
	asks map[uint64]*dynamicresources.Ask
}

// newExtendedClaim is nil for a pod that asks for nothing that a class stands for.
func (s *Snapshot) newExtendedClaim(p *Pod) *extendedClaim {
	var e *extendedClaim
	for _, r := range p.requests.extended {
		if s.devices.ClassFor(s.resources.values[r.resource]) == nil || r.amount == 0 {
			continue
		}
		if e == nil {
			e = &extendedClaim{p: p, asks: map[uint64]*dynamicresources.Ask{}}
		}
		if len(e.resources) < 64 {
			e.resources = append(e.resources, r.resource)
		}
	}
	return e
}

// missing are the resources, bit by bit, that a node doesn't have.
func (e *extendedClaim) missing(n *node) uint64 {
	var out uint64
	for i, r := range e.resources {
		if n.capacity.other(r) == 0 {
			out |= 1 << i
		}
	}
	return out
}

// claim makes the claim for some of the resources, and says which request of it is for which of the containers' resources.
func (e *extendedClaim) claim(s *Snapshot, which uint64) (*resourcev1.ResourceClaim, []v1.ContainerExtendedResourceRequest) {
	pod := e.p.pod
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: pod.Namespace, Name: "<extended-resources>", UID: "extended-resources/" + pod.UID, GenerateName: pod.Name[:min(len(pod.Name), maxClaimPrefix)] + "-extended-resources-",
		Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, v1.SchemeGroupVersion.WithKind("Pod"))},
		Finalizers: []string{resourcev1.Finalizer},
	}}
	var mappings []v1.ContainerExtendedResourceRequest
	wanted := map[string]bool{}
	for i, r := range e.resources {
		wanted[s.resources.values[r]] = which&(1<<i) != 0
	}
	for i, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		k := 0
		for _, name := range slices.Sorted(maps.Keys(container.Resources.Requests)) {
			q := container.Resources.Requests[name]
			if !wanted[string(name)] || q.IsZero() {
				continue
			}
			request := fmt.Sprintf("container-%d-request-%d", i, k)
			k++
			c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: request, Exactly: &resourcev1.ExactDeviceRequest{
				DeviceClassName: s.devices.ClassFor(string(name)).Name, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: q.Value(),
			}})
			mappings = append(mappings, v1.ContainerExtendedResourceRequest{ContainerName: container.Name, ResourceName: string(name), RequestName: request})
		}
	}
	return c, mappings
}

// maxClaimPrefix keeps the names of claims valid.
const maxClaimPrefix = 200

// ask is what must be allocated on a node: the pod's claims, and its extended resources that the node doesn't have. It is nil if nothing must be.
func (a *deviceAsk) on(i int32) (*dynamicresources.Ask, error) {
	which := uint64(0)
	if a.extended != nil {
		which = a.extended.missing(&a.s.nodes[i])
	}
	if which == 0 {
		return a.ask, nil
	}
	if have, ok := a.extended.asks[which]; ok {
		return have, nil
	}
	c, _ := a.extended.claim(a.s, which)
	made, err := a.s.devices.Prepare(append(slices.Clip(a.want), c))
	if err == nil {
		a.extended.asks[which] = made
	}
	return made, err
}

// createClaim makes the claim for a pod's extended resources, with its devices, and says so in the pod's status.
func (s *Scheduler) createClaim(ctx context.Context, p *Pod, plan *PlannedClaim) (*resourcev1.ResourceClaim, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c := plan.Claim.DeepCopy()
	c.Name, c.UID = "", ""
	made, err := s.client.ResourceV1().ResourceClaims(c.Namespace).Create(call, c, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create claim for extended resources: %w", err)
	}
	plan.created = made
	written := *plan
	written.Claim = made
	done, err := s.bindClaim(ctx, p, &written)
	if err != nil {
		return nil, err
	}
	return done, s.tellExtended(ctx, p, &v1.PodExtendedResourceClaimStatus{ResourceClaimName: made.Name, RequestMappings: plan.Mappings})
}

// tellExtended writes which claim the pod's extended resources come from; nil is none.
func (s *Scheduler) tellExtended(ctx context.Context, p *Pod, st *v1.PodExtendedResourceClaimStatus) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.uid()}, "status": map[string]any{"extendedResourceClaimStatus": st}})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = s.client.CoreV1().Pods(p.pod.Namespace).Patch(call, p.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// dropExtended deletes the claim that was made for a pod's extended resources and that isn't needed.
func (s *Scheduler) dropExtended(ctx context.Context, p *Pod, plan *PlannedClaim) {
	var err error
	if c := plan.created; c != nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		api := s.client.ResourceV1().ResourceClaims(c.Namespace)
		if err = api.Delete(call, c.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(c.UID))}); err == nil {
			var now *resourcev1.ResourceClaim
			if now, err = api.Get(call, c.Name, metav1.GetOptions{}); err == nil && now.UID == c.UID {
				err = s.deallocate(ctx, now) // its controller lets it go then
			}
		}
		if told := s.tellExtended(ctx, p, nil); told != nil && err == nil {
			err = told
		}
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		s.log.Error("scheduler: delete claim for extended resources", "pod", p.pod.Namespace+"/"+p.pod.Name, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot.devices.Withdraw(plan.Claim.UID) {
		s.devicesEased()
	}
}

// backed says whether a class of devices stands for a resource that a node doesn't have.
func (s *Snapshot) backed(p *profile, resource uint32) bool {
	return p.asked[NameDynamicResources] && strings.Contains(s.resources.values[resource], "/") && s.devices.ClassFor(s.resources.values[resource]) != nil
}
