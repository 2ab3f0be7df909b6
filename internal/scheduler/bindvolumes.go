package scheduler

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bindVolumes gives a pod's claims the volumes that were planned, has the others provisioned, and waits until all claims have theirs. A place for a call
// is taken; it is given back while there is nothing to do but wait.
func (s *Scheduler) bindVolumes(ctx context.Context, p *Pod, node string, plan VolumePlan) error {
	if plan.Empty() {
		return nil
	}
	s.expect(ctx, p.pod, node)
	if err := s.writeVolumes(ctx, node, plan); err != nil {
		return err
	}
	<-s.calls
	err := s.awaitVolumes(ctx, p, plan)
	// Taken again in any case: the caller gives it back.
	s.calls <- struct{}{}
	if err != nil {
		return fmt.Errorf("binding volumes: %w", err)
	}
	return nil
}

func (s *Scheduler) writeVolumes(ctx context.Context, node string, plan VolumePlan) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, b := range plan.Bind {
		if b.Volume.Spec.ClaimRef != nil && b.Volume.Spec.ClaimRef.UID == b.Claim.UID {
			continue
		}
		pv := b.Volume.DeepCopy()
		if pv.Spec.ClaimRef == nil {
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, annBoundByUs, "yes")
		}
		pv.Spec.ClaimRef = &v1.ObjectReference{
			Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: b.Claim.Namespace, Name: b.Claim.Name, UID: b.Claim.UID, ResourceVersion: b.Claim.ResourceVersion,
		}
		if _, err := s.client.CoreV1().PersistentVolumes().Update(call, pv, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	for _, c := range plan.Provision {
		if c.Annotations[annSelectedNode] == node {
			continue
		}
		claim := c.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annSelectedNode, node)
		if _, err := s.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(call, claim, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// awaitVolumes waits until all claims are bound.
func (s *Scheduler) awaitVolumes(ctx context.Context, p *Pod, plan VolumePlan) error {
	limit := s.clock.NewTimer(p.profile.bindTimeout)
	defer limit.Stop()
	for {
		s.mu.Lock()
		changed := s.storage
		done, gone := s.snapshot.Bound(p, plan)
		_, there := s.queue.items[p.uid()]
		s.mu.Unlock()
		switch {
		case gone != "":
			return fmt.Errorf("provisioning failed for PVC %q", gone)
		case done:
			return nil
		case !there:
			return errors.New("the pod is gone")
		}
		select {
		case <-changed:
		case <-limit.C():
			return context.DeadlineExceeded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// storageChanged tells those who wait for claims. s.mu must be held.
func (s *Scheduler) storageChanged() {
	close(s.storage)
	s.storage = make(chan struct{})
}
