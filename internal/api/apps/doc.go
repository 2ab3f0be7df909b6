// Package apps holds the kinds of the API group apps: workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet and ControllerRevision, with the versions of them that old manifests still name.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package apps
