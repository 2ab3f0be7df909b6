// Package node holds the kinds of the API group node.k8s.io: runtime classes.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package node
