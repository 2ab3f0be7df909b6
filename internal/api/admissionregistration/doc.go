// Package admissionregistration holds the kinds of the API group admissionregistration.k8s.io: webhooks and policies that take part in admission.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package admissionregistration
