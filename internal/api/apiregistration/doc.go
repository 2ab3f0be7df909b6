// Package apiregistration holds the kinds of the API group apiregistration.k8s.io: aggregated APIs.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package apiregistration
