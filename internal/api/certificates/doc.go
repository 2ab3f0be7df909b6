// Package certificates holds the kinds of the API group certificates.k8s.io: certificate requests and trust bundles.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package certificates
