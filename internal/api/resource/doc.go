// Package resource holds the kinds of the API group resource.k8s.io: dynamic resource allocation.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package resource
