// Package storage holds the kinds of the API group storage.k8s.io: storage classes and what CSI drivers tell of themselves.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package storage
