// Package check has the building blocks that validation of several kinds shares: names, labels, selectors, quantities,
// addresses, immutability. Each check takes the value and its path and returns the complaints; the texts and reasons are
// those that tools know from Kubernetes.
//
// Checks that apimachinery already has (annotations, ObjectMeta, label selectors) are not repeated here.
package check
