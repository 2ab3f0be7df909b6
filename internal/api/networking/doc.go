// Package networking holds the kinds of the API group networking.k8s.io: ingresses, network policies and the address ranges of services.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package networking
