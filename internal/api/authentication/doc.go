// Package authentication holds the kinds of the API group authentication.k8s.io: questions about who somebody is; nothing of it is stored.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package authentication
