// Package discovery holds the kinds of the API group discovery.k8s.io: endpoint slices.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package discovery
