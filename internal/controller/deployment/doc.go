// Package deployment rolls Deployments out: it keeps one ReplicaSet per revision of the template, moves replicas from old sets to the new one within
// the bounds of the strategy, keeps the history, and reports progress in the status. It reads Deployments, ReplicaSets and pods and writes
// Deployments and ReplicaSets, never pods.
package deployment
