// Package core holds the kinds of the core group: pods and all that they are made of, services, nodes, namespaces, and the rest of /api/v1. Each
// kind is one file: its defaults, validation, what a client may change, its table. Pods have several, named pod_*.go; what is inside a pod's spec
// is package podspec.
package core
