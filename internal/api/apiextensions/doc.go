// Package apiextensions holds the kinds of the API group apiextensions.k8s.io: custom resource definitions.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package apiextensions
