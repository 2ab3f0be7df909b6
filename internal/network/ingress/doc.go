// Package ingress is a node's part of the Ingress API: it follows Ingresses, classes, services and endpoint slices, makes a table of them (package route) and lets
// package serve carry requests by it, on two ports of the machine. The ports are open only while there is an Ingress for us.
//
// It must not know who runs the node and where secrets come from. What is wrong with Ingresses the controller ingressstatus says, once for all nodes; here only
// what is wrong on this machine is said.
package ingress
