// Package scheduling holds the kinds of the API group scheduling.k8s.io: priority classes.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package scheduling
