// Package coordination holds the kinds of the API group coordination.k8s.io: leases.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package coordination
