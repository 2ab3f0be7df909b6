package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claimTries is how often the reservation of a claim is tried anew because somebody else changed it.
const claimTries = 5

// bindDevices writes what was planned for a pod's claims: their devices, and that they are reserved for the pod. Then it waits until drivers say that the devices are
// ready, if they want that (KEP-5007). The place for a call is given back while there is nothing to do but wait.
func (s *Scheduler) bindDevices(ctx context.Context, p *Pod, node string, plan DevicePlan) error {
	waits := false
	for i := range plan.Claims {
		bind := s.bindClaim
		if len(plan.Claims[i].Mappings) > 0 {
			bind = s.createClaim
		}
		c, err := bind(ctx, p, &plan.Claims[i])
		if err != nil {
			return err
		}
		waits = waits || slices.ContainsFunc(c.Status.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
	}
	if !waits {
		return nil
	}
	s.expect(ctx, p.pod, node)
	<-s.calls
	bad, err := s.awaitDevices(ctx, p, plan)
	// Taken again in any case: the caller gives it back.
	s.calls <- struct{}{}
	if bad != nil && ctx.Err() == nil {
		return errors.Join(err, s.deallocate(ctx, bad))
	}
	return err
}

// bindClaim writes one claim and returns it as it is then.
func (s *Scheduler) bindClaim(ctx context.Context, p *Pod, plan *PlannedClaim) (*resourcev1.ResourceClaim, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	api := s.client.ResourceV1().ResourceClaims(plan.Claim.Namespace)
	claim := plan.Claim
	for try := 0; ; try++ {
		if try > 0 {
			var err error
			if claim, err = api.Get(call, plan.Claim.Name, metav1.GetOptions{}); err != nil {
				return nil, fmt.Errorf("get resource claim %s/%s: %w", plan.Claim.Namespace, plan.Claim.Name, err)
			}
		}
		done, err := s.writeClaim(call, p, claim, plan)
		if err == nil || !apierrors.IsConflict(err) || try == claimTries {
			return done, err
		}
	}
}

func (s *Scheduler) writeClaim(ctx context.Context, p *Pod, claim *resourcev1.ResourceClaim, plan *PlannedClaim) (*resourcev1.ResourceClaim, error) {
	api := s.client.ResourceV1().ResourceClaims(claim.Namespace)
	key := claim.Namespace + "/" + claim.Name
	switch {
	case claim.UID != plan.Claim.UID || claim.DeletionTimestamp != nil:
		return nil, fmt.Errorf("claim %s got deleted in the meantime", key)
	case claim.Status.Allocation != nil && plan.Allocation != nil:
		return nil, fmt.Errorf("claim %s got allocated elsewhere in the meantime", key)
	case claim.Status.Allocation == nil && plan.Allocation == nil:
		return nil, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", key)
	case claim.Status.Allocation != nil && reservedFor(claim, p.pod):
		return claim, nil
	}
	next := claim.DeepCopy()
	if plan.Allocation != nil {
		// The finalizer keeps the claim as long as it has devices.
		if !slices.Contains(next.Finalizers, resourcev1.Finalizer) {
			next.Finalizers = append(next.Finalizers, resourcev1.Finalizer)
			updated, err := api.Update(ctx, next, metav1.UpdateOptions{})
			if err != nil {
				return nil, fmt.Errorf("add finalizer to claim %s: %w", key, err)
			}
			next = updated
		}
		next.Status.Allocation = plan.Allocation.DeepCopy()
		now := metav1.NewTime(s.clock.Now())
		next.Status.Allocation.AllocationTimestamp = &now
	}
	next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.pod.Name, UID: p.pod.UID})
	done, err := api.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && plan.Allocation != nil {
		return nil, fmt.Errorf("add allocation and reservation to claim %s: %w", key, err)
	} else if err != nil {
		return nil, fmt.Errorf("add reservation to claim %s: %w", key, err)
	}
	return done, nil
}

// awaitDevices waits until all devices of a plan are ready. If one never will be, it returns its claim as well.
func (s *Scheduler) awaitDevices(ctx context.Context, p *Pod, plan DevicePlan) (*resourcev1.ResourceClaim, error) {
	limit := s.clock.NewTimer(p.profile.deviceTimeout)
	defer limit.Stop()
	for {
		s.mu.Lock()
		changed := s.storage
		_, there := s.queue.items[p.uid()]
		var waiting *resourcev1.ResourceClaim
		for _, c := range plan.Claims {
			of := c.Claim
			if c.created != nil {
				of = c.created
			}
			now := s.snapshot.devices.Claim(of.Namespace, of.Name)
			if now == nil && c.created != nil {
				now = of // on its way
			}
			if now == nil || now.UID != of.UID {
				s.mu.Unlock()
				return nil, fmt.Errorf("claim %s/%s got deleted in the meantime", of.Namespace, of.Name)
			}
			ready, err := devicesReady(now)
			if err != nil {
				s.mu.Unlock()
				return now, err
			}
			if !ready {
				waiting = now
			}
		}
		s.mu.Unlock()
		switch {
		case waiting == nil:
			return nil, nil
		case !there:
			return nil, errors.New("the pod is gone")
		}
		select {
		case <-changed:
		case <-limit.C():
			return waiting, fmt.Errorf("claim %s/%s: device binding timeout", waiting.Namespace, waiting.Name)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// devicesReady says whether the drivers have said of all devices of a claim that pods may be bound to them, or an error if they said that this failed.
func devicesReady(c *resourcev1.ResourceClaim) (bool, error) {
	if c.Status.Allocation == nil {
		return false, nil // what we wrote is on its way back
	}
	ready := true
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		var said []metav1.Condition
		for k := range c.Status.Devices {
			if d := &c.Status.Devices[k]; d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device && value(d.ShareID) == string(value(r.ShareID)) {
				said = d.Conditions
			}
		}
		for _, name := range r.BindingFailureConditions {
			if meta.IsStatusConditionTrue(said, name) {
				return false, fmt.Errorf("claim %s/%s: binding of device %s/%s/%s failed: %s", c.Namespace, c.Name, r.Driver, r.Pool, r.Device, name)
			}
		}
		for _, name := range r.BindingConditions {
			ready = ready && meta.IsStatusConditionTrue(said, name)
		}
	}
	return ready, nil
}

// deallocate takes a claim's devices back.
func (s *Scheduler) deallocate(ctx context.Context, c *resourcev1.ResourceClaim) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := c.DeepCopy()
	next.Status = resourcev1.ResourceClaimStatus{}
	if _, err := s.client.ResourceV1().ResourceClaims(c.Namespace).UpdateStatus(call, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deallocate claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

// dropDevices undoes a plan that wasn't carried out to the end: what was only promised is free again, at once if it is certain that it was never written; reservations are
// taken back.
func (s *Scheduler) dropDevices(ctx context.Context, p *Pod, plan DevicePlan) {
	for i := range plan.Claims {
		if len(plan.Claims[i].Mappings) > 0 {
			s.dropExtended(ctx, p, &plan.Claims[i])
			continue
		}
		c := plan.Claims[i].Claim
		call, cancel := context.WithTimeout(ctx, callTimeout)
		now, err := s.client.ResourceV1().ResourceClaims(c.Namespace).Get(call, c.Name, metav1.GetOptions{})
		if err == nil && now.UID == c.UID && reservedFor(now, p.pod) {
			// One entry is taken out, whatever became of the others meanwhile.
			patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"reservedFor":[{"$patch":"delete","uid":%q}]}}`, c.UID, p.uid())
			_, err = s.client.ResourceV1().ResourceClaims(c.Namespace).Patch(call, c.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		}
		cancel()
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.log.Error("scheduler: release claim", "claim", c.Namespace+"/"+c.Name, "err", err)
		}
		if plan.Claims[i].Allocation == nil || now != nil && err == nil && now.Status.Allocation != nil {
			continue // the informer will tell of what it has
		}
		s.mu.Lock()
		if s.snapshot.devices.Withdraw(c.UID) {
			s.devicesEased()
		}
		s.mu.Unlock()
	}
}
