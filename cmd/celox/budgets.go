package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedpolicyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
)

// budgets is a client that says which PodDisruptionBudget keeps a pod on a node, and what helps: of the API's answer a drain shows only that there is one.
type budgets struct {
	kubernetes.Interface
	node string
	out  io.Writer

	mu      sync.Mutex      // guards what follows
	said    map[string]bool // what was said
	waiting map[string]string
}

// PolicyV1 implements kubernetes.Interface.
func (b *budgets) PolicyV1() typedpolicyv1.PolicyV1Interface {
	return policyV1{b.Interface.PolicyV1(), b}
}

type policyV1 struct {
	typedpolicyv1.PolicyV1Interface
	b *budgets
}

// Evictions implements typedpolicyv1.PolicyV1Interface.
func (p policyV1) Evictions(namespace string) typedpolicyv1.EvictionInterface {
	return evictions{p.PolicyV1Interface.Evictions(namespace), p.b}
}

type evictions struct {
	typedpolicyv1.EvictionInterface
	b *budgets
}

// Evict implements typedpolicyv1.EvictionInterface.
func (e evictions) Evict(ctx context.Context, eviction *policyv1.Eviction) error {
	err := e.EvictionInterface.Evict(ctx, eviction)
	e.b.note(eviction.Namespace, eviction.Name, err)
	return err
}

// note says why a pod stays for now, once.
func (b *budgets) note(namespace, pod string, err error) {
	why := budgetOf(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	at := namespace + "/" + pod
	if why == "" {
		delete(b.waiting, at)
		return
	}
	if b.waiting == nil {
		b.waiting = map[string]string{}
	}
	b.waiting[at] = why
	text := fmt.Sprintf("pod %s stays on node %s for now: %s. It goes when the budget allows it: when more pods that the budget counts are ready elsewhere "+
		"(more replicas, room on other nodes), or with another budget (`celox kubectl get poddisruptionbudget -n %s`)\n", at, b.node, why, namespace)
	if !b.said[text] {
		b.said[text] = true
		_, _ = io.WriteString(b.out, text) // it is in the last error as well
	}
}

// held lists the pods that budgets keep, for the end of an error.
func (b *budgets) held() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for pod, why := range b.waiting {
		list = append(list, fmt.Sprintf("; pod %s: %s", pod, why))
	}
	slices.Sort(list)
	return strings.Join(list, "")
}

// budgetOf finds what an answer says of a budget; "" is nothing.
func budgetOf(err error) string {
	var status apierrors.APIStatus
	if !apierrors.IsTooManyRequests(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	causes := status.Status().Details.Causes
	i := slices.IndexFunc(causes, func(c metav1.StatusCause) bool { return c.Type == policyv1.DisruptionBudgetCause })
	if i < 0 {
		return ""
	}
	return strings.TrimSuffix(causes[i].Message, ".")
}
