// Package ingressstatus writes into the status of Ingresses where they are reached, which is on every node that is Ready, and says in events what of an Ingress does
// not work. It is the one who speaks for all nodes; that an Ingress works is their own business.
package ingressstatus
