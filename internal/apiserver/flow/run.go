package flow

import (
	"context"
	"fmt"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyflowcontrolv1 "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/internal/store"
)

// manager is what the conditions of flow schemas are written as.
const manager = "api-priority-and-fairness-config-consumer-v1"

// pause is how long to wait before something that failed is tried again.
const pause = time.Second

// Run follows the configuration until ctx ends, and tells each FlowSchema by client, in its condition Dangling, whether its priority
// level exists.
func (f *Filter) Run(ctx context.Context, client kubernetes.Interface) {
	defer f.close()
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range []store.Reader{f.cfg.Schemas, f.cfg.Levels} {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := follow(ctx, r, changed); err != nil && ctx.Err() == nil {
					f.cfg.Logger.Debug("watching the flow configuration again", "error", err)
				}
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		err := f.read(ctx)
		if err == nil {
			err = f.report(ctx, client)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		f.cfg.Logger.Warn("following the flow configuration", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			signal(changed)
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one under way
	}
}

// follow signals each batch of changes, and the state at the beginning. It returns when the watch breaks.
func follow(ctx context.Context, r store.Reader, changed chan<- struct{}) error {
	w, err := r.Watch(ctx, store.WatchOptions{FromNow: true})
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		return err
	}
	defer w.Stop()
	for {
		signal(changed)
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}

// report writes the conditions that are not true yet.
func (f *Filter) report(ctx context.Context, client kubernetes.Interface) error {
	f.mu.Lock()
	o := f.objects
	f.mu.Unlock()
	exists := map[string]bool{}
	for _, l := range o.levels {
		exists[l.Name] = true
	}
	for _, s := range o.schemas {
		name := s.Spec.PriorityLevelConfiguration.Name
		want := flowcontrolv1.FlowSchemaCondition{
			Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
			Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", name),
		}
		if !exists[name] {
			want.Status, want.Reason = flowcontrolv1.ConditionTrue, "NotFound"
			want.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", name)
		}
		if err := tell(ctx, client, s, want); err != nil {
			return fmt.Errorf("condition of flow schema %s: %w", s.Name, err)
		}
	}
	return nil
}

func tell(ctx context.Context, client kubernetes.Interface, s *flowcontrolv1.FlowSchema, want flowcontrolv1.FlowSchemaCondition) error {
	since := metav1.Now()
	for i := range s.Status.Conditions {
		c := &s.Status.Conditions[i]
		if c.Type != want.Type {
			continue
		}
		if c.Status == want.Status {
			if c.Reason == want.Reason && c.Message == want.Message {
				return nil
			}
			since = c.LastTransitionTime
		}
	}
	_, err := client.FlowcontrolV1().FlowSchemas().ApplyStatus(ctx,
		applyflowcontrolv1.FlowSchema(s.Name).WithStatus(applyflowcontrolv1.FlowSchemaStatus().WithConditions(
			applyflowcontrolv1.FlowSchemaCondition().WithType(want.Type).WithStatus(want.Status).WithReason(want.Reason).
				WithMessage(want.Message).WithLastTransitionTime(since))),
		metav1.ApplyOptions{FieldManager: manager, Force: true})
	if apierrors.IsNotFound(err) {
		return nil // it is gone; that will be heard of
	}
	return err
}
