// Package flowcontrol holds the kinds of the API group flowcontrol.apiserver.k8s.io: how the API server shares itself among its clients.
// One file is one kind; it knows nothing but the API types and the packages that check and print them.
package flowcontrol
