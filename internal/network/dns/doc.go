// Package dns is the cluster's name server, one in every node. It answers for the cluster's domain as the Kubernetes DNS specification (version
// 1.1.0) says, from what the node knows of services and endpoints anyway, and asks the machine's own name servers, or those of stub domains, for
// everything else.
//
// A question takes one of two ways. The short one looks the packet up among answers given before and changes what differs from client to client: the
// identifier, the case of the name, the order of addresses. The long one takes it apart, finds the answer and leaves it for the short one. A
// change of any service ends the answers about the cluster; others end with their time to live.
//
// The package knows the API's objects through listers only, and nothing of how packets reach it.
package dns
