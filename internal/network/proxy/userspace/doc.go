// Package userspace carries the packets of services in this process, for kernels without nf_tables: a proxy.Datapath of listeners.
//
// Cluster addresses, and external ones that no machine has, belong to a network namespace of the proxy's own, to which the node routes them. There
// every address is local, so that each can be listened on, nothing of the node's answers on it, and what nobody listens on is refused. Node ports
// are listened on in the node's namespace, and endpoints are called from there: they see the node's address instead of the client's, which is what
// this mode lacks most. Connections end when the process ends, as the namespace does.
//
// It knows frontends, and neither the API nor the pod network.
package userspace
