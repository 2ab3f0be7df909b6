// Package extender asks programs outside the scheduler, over HTTP, what they think of a pod and its nodes: which nodes can't have it, how good the others are, whether the
// victims of a preemption may go; and lets one of them bind.
//
// The messages are those of k8s.io/kube-scheduler/extender/v1, and an extender that works with upstream's scheduler works here. Each call is bounded in
// time and size. The package knows nothing of how decisions are made; what an error means for the pod is its caller's business, which Ignorable helps to decide.
package extender
