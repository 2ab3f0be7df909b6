// Package endpointslice keeps the EndpointSlices of every Service with a selector: which pods serve it, at which addresses and ports, and
// whether they are ready. The arithmetic of slices is k8s.io/endpointslice's; this package feeds it.
package endpointslice
