package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	// ConditionAccepted says whether nodes can enforce all that a ClusterNetworkPolicy says.
	ConditionAccepted = "Accepted"
	// Reasons of the condition, if it is true and if it is not.
	reasonAccepted, reasonUnsupported = "Accepted", "UnsupportedRules"
	// statusManager owns the condition.
	statusManager = "celox-network-policy"
	// maxMessage bounds the message of a condition, as the API does.
	maxMessage = 32768
)

// ClusterNetworkPolicyStatus is what is known of a policy.
type ClusterNetworkPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Statuses keeps the status of each ClusterNetworkPolicy, if the cluster has the kind. One of them is enough for a cluster.
type Statuses struct {
	client   rest.Interface
	policies *ClusterPolicies
	names    bool
	log      *slog.Logger
	wake     chan struct{} // capacity 1

	mu    sync.Mutex
	dirty map[string]struct{} // guarded by mu
}

// NewStatuses returns one that works by a client whose path doesn't matter. names says whether nodes learn the addresses of domain names.
func NewStatuses(client rest.Interface, names bool, log *slog.Logger) (*Statuses, error) {
	policies, err := NewClusterPolicies(client)
	if err != nil {
		return nil, err
	}
	s := &Statuses{client: client, policies: policies, names: names, log: log, wake: make(chan struct{}, 1), dirty: map[string]struct{}{}}
	policies.notify(s.note)
	return s, nil
}

func (s *Statuses) note(n string) {
	s.again([]string{n})
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (s *Statuses) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() {
		if err := s.policies.run(ctx); err != nil {
			s.log.Error("network policy: the statuses of the cluster's policies are not kept any more", "err", err)
		}
	})
	backoff := retryFirst
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-retry:
		}
		retry = nil
		if failed := s.round(ctx); len(failed) > 0 && ctx.Err() == nil {
			s.again(failed)
			retry, backoff = time.After(backoff), min(2*backoff, retryLast)
		} else {
			backoff = retryFirst
		}
	}
}

// again has policies looked at in the next round, whenever that is.
func (s *Statuses) again(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.dirty[n] = struct{}{}
	}
}

// round looks at what changed, and returns what has to be looked at again.
func (s *Statuses) round(ctx context.Context) (failed []string) {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = map[string]struct{}{}
	s.mu.Unlock()
	for n := range dirty {
		p := s.policies.get(n)
		if p == nil {
			continue
		}
		want, changed := p.condition(s.names, metav1.Now())
		if !changed {
			continue
		}
		// A definition may have no status, and a policy may have gone.
		if err := s.write(ctx, n, want); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.log.Warn("network policy: cannot write the status of a policy; will try again", "policy", n, "err", err)
			failed = append(failed, n)
		}
	}
	return failed
}

// condition is what is to be said of a policy, and whether that is new.
func (p *ClusterNetworkPolicy) condition(names bool, now metav1.Time) (_ metav1.Condition, changed bool) {
	want := metav1.Condition{
		Type: ConditionAccepted, Status: metav1.ConditionTrue, Reason: reasonAccepted, Message: "nodes enforce all of the policy",
		ObservedGeneration: p.Generation, LastTransitionTime: now,
	}
	if _, err := parseCluster(p, names); err != nil {
		want.Status, want.Reason = metav1.ConditionFalse, reasonUnsupported
		want.Message = "what nodes cannot enforce opens nothing: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		want.Message = strings.ToValidUTF8(want.Message[:min(len(want.Message), maxMessage)], "")
	}
	i := slices.IndexFunc(p.Status.Conditions, func(c metav1.Condition) bool { return c.Type == ConditionAccepted })
	if i < 0 {
		return want, true
	}
	has := p.Status.Conditions[i]
	if has.Status == want.Status {
		want.LastTransitionTime = has.LastTransitionTime
	}
	return want, has != want
}

// write applies the condition (server-side apply): conditions of others stay.
func (s *Statuses) write(ctx context.Context, n string, c metav1.Condition) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": ClusterGroupVersion, "kind": "ClusterNetworkPolicy", "metadata": map[string]any{"name": n},
		"status": map[string]any{"conditions": []metav1.Condition{c}},
	})
	if err != nil {
		return fmt.Errorf("status of %s: %w", n, err)
	}
	_, err = s.client.Patch(types.ApplyPatchType).AbsPath("/apis/"+ClusterGroupVersion+"/clusternetworkpolicies", n, "status").
		SetHeader("Accept", runtime.ContentTypeJSON).Param("fieldManager", statusManager).Param("force", "true").Body(body).DoRaw(ctx)
	return err
}
