// Package rbac holds the kinds of the API group rbac.authorization.k8s.io: roles and their bindings.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package rbac
