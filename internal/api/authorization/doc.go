// Package authorization holds the kinds of the API group authorization.k8s.io: questions about what somebody may do; nothing of it is stored.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package authorization
