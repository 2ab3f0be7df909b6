// Package replicaset keeps as many pods running as each ReplicaSet says. It reads ReplicaSets and pods, creates, adopts, releases and deletes
// pods, and writes the status of ReplicaSets. It must not know Deployments.
package replicaset
