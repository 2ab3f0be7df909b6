package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// The times of upstream's control plane: how long a lease lasts, after how long without a renewal a leader stops, and how often it and the others try.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Config is what a candidate is.
type Config struct {
	Leases coordinationclient.LeaseInterface
	// Name is that of the Lease, e.g. kube-scheduler; Identity tells the candidates apart.
	Name, Identity string
	// Recorder may be nil.
	Recorder record.EventRecorder
	Log      *slog.Logger
	// Lead does the work of a leader until its context ends, and has to return soon then: within leaseDuration-renewDeadline. An error ends the candidacy.
	Lead func(ctx context.Context) error
}

// candidate is a Config and what is known of the lease.
type candidate struct {
	Config
	// seen is the lease as last read or written, changed when that was first so, by this process's clock.
	seen    *coordinationv1.Lease
	changed time.Time
}

// Run takes part until ctx ends, leading whenever the lease is its own. It returns what Lead does, or nil.
func Run(ctx context.Context, cfg Config) error {
	c := &candidate{Config: cfg}
	for ctx.Err() == nil {
		since, ok := c.acquire(ctx)
		if !ok {
			return nil
		}
		if err := c.lead(ctx, since); err != nil {
			return err
		}
	}
	return nil
}

// acquire waits until the lease is ours, and returns since when it is so at least; false says that ctx ended first.
func (c *candidate) acquire(ctx context.Context) (time.Time, bool) {
	for {
		start := time.Now()
		// Who hears late that it leads may lead no more.
		attempt, cancel := context.WithDeadline(ctx, start.Add(renewDeadline/2))
		held, err := c.try(attempt)
		cancel()
		switch {
		case held:
			c.event("became leader")
			c.Log.Info("leading", "lease", c.Name, "identity", c.Identity)
			return start, true
		case err != nil && ctx.Err() == nil:
			c.Log.Debug("could not get the lease", "lease", c.Name, "err", err)
		}
		if !pause(ctx, retryPeriod) {
			return time.Time{}, false
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lead runs Lead for as long as the lease can be renewed, waits for it to end and then gives the lease up.
func (c *candidate) lead(ctx context.Context, since time.Time) error {
	term, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	go func() { ended <- c.Lead(term) }()
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		c.renew(term, since)
		end()
	}()
	err := <-ended
	if term.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	end()
	<-renewed
	c.event("stopped leading")
	c.Log.Info("no longer leading", "lease", c.Name, "identity", c.Identity)
	c.release(context.WithoutCancel(ctx))
	return err
}

// renew renews the lease, which is ours since last, until ctx ends or it could not for renewDeadline.
func (c *candidate) renew(ctx context.Context, last time.Time) {
	for pause(ctx, retryPeriod) {
		// An answer that comes too late is as good as none.
		attempt, cancel := context.WithDeadline(ctx, last.Add(renewDeadline))
		start := time.Now()
		held, err := c.try(attempt)
		cancel()
		switch {
		case held:
			last = start
		case err == nil:
			c.Log.Warn("somebody else took the lease", "lease", c.Name)
			return
		case ctx.Err() != nil:
			return
		case time.Since(last) >= renewDeadline:
			c.Log.Warn("could not renew the lease in time", "lease", c.Name, "err", err)
			return
		}
	}
}

// release lets the others not wait for the lease to run out. That it may fail is what leases are for.
func (c *candidate) release(ctx context.Context) {
	if c.seen == nil || ptr.Deref(c.seen.Spec.HolderIdentity, "") != c.Identity {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, retryPeriod)
	defer cancel()
	err := c.vacate(ctx, c.seen)
	if apierrors.IsConflict(err) { // perhaps by a renewal of ours whose answer came too late
		var lease *coordinationv1.Lease
		if lease, err = c.Leases.Get(ctx, c.Name, metav1.GetOptions{}); err == nil && ptr.Deref(lease.Spec.HolderIdentity, "") == c.Identity {
			err = c.vacate(ctx, lease)
		}
	}
	if err != nil {
		c.Log.Warn("could not release the lease", "lease", c.Name, "err", err)
	}
}

// vacate writes a lease that nobody holds.
func (c *candidate) vacate(ctx context.Context, lease *coordinationv1.Lease) error {
	next := lease.DeepCopy()
	now := metav1.NowMicro()
	next.Spec = coordinationv1.LeaseSpec{HolderIdentity: ptr.To(""), LeaseDurationSeconds: ptr.To(int32(1)), AcquireTime: &now, RenewTime: &now, LeaseTransitions: next.Spec.LeaseTransitions}
	got, err := c.Leases.Update(ctx, next, metav1.UpdateOptions{})
	if err == nil {
		c.saw(got)
	}
	return err
}

// try gets or renews the lease if it may. The error says why nobody knows.
func (c *candidate) try(ctx context.Context) (bool, error) {
	now := time.Now()
	if c.seen != nil && ptr.Deref(c.seen.Spec.HolderIdentity, "") == c.Identity { // most of the time
		if got, err := c.Leases.Update(ctx, c.claim(c.seen), metav1.UpdateOptions{}); err == nil {
			c.saw(got)
			return true, nil
		} else if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("renew lease: %w", err)
		}
	}
	lease, err := c.Leases.Get(ctx, c.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err := c.Leases.Create(ctx, c.claim(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: c.Name}}), metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("create lease: %w", err)
		}
		c.saw(got)
		return true, nil
	} else if err != nil {
		return false, fmt.Errorf("get lease: %w", err)
	}
	c.saw(lease)
	holder, lasts := ptr.Deref(lease.Spec.HolderIdentity, ""), time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0))*time.Second
	if holder != "" && holder != c.Identity && now.Before(c.changed.Add(lasts)) {
		return false, nil
	}
	got, err := c.Leases.Update(ctx, c.claim(lease), metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return false, nil // somebody was faster
	} else if err != nil {
		return false, fmt.Errorf("take lease: %w", err)
	}
	c.saw(got)
	return true, nil
}

// saw notes the newest state of the lease.
func (c *candidate) saw(lease *coordinationv1.Lease) {
	if c.seen == nil || c.seen.ResourceVersion != lease.ResourceVersion || c.seen.UID != lease.UID {
		c.seen, c.changed = lease, time.Now()
	}
}

// claim is the lease with our name on it, from now on.
func (c *candidate) claim(lease *coordinationv1.Lease) *coordinationv1.Lease {
	next := lease.DeepCopy()
	now := metav1.NowMicro()
	if ptr.Deref(lease.Spec.HolderIdentity, "") != c.Identity {
		next.Spec.AcquireTime = &now
		transitions := ptr.Deref(lease.Spec.LeaseTransitions, 0)
		if lease.ResourceVersion != "" {
			transitions++
		}
		next.Spec.LeaseTransitions = &transitions
	}
	next.Spec.HolderIdentity, next.Spec.RenewTime = &c.Identity, &now
	next.Spec.LeaseDurationSeconds = ptr.To(int32(leaseDuration / time.Second))
	return next
}

func (c *candidate) event(what string) {
	if c.Recorder != nil && c.seen != nil {
		ref := &corev1.ObjectReference{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Namespace: c.seen.Namespace, Name: c.Name, UID: c.seen.UID}
		c.Recorder.Eventf(ref, corev1.EventTypeNormal, "LeaderElection", "%s %s", c.Identity, what)
	}
}
