// Package storagemigration holds the kinds of the API group storagemigration.k8s.io: requests to write stored objects again.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package storagemigration
