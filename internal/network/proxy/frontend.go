package proxy

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Key is a place where packets arrive for a service.
type Key struct {
	// Addr is the address, or 0.0.0.0 or :: for a node port, which all addresses of the node have.
	Addr     netip.Addr
	Protocol corev1.Protocol
	Port     uint16
}

// NodePort reports whether the key is one of every address of the node.
func (k Key) NodePort() bool { return k.Addr.IsUnspecified() }

// Endpoint is where a packet can go.
type Endpoint struct {
	Addr netip.AddrPort
	// Local says that it is on this node.
	Local bool
}

// Frontend is what becomes of packets that arrive at a key. It is never modified.
type Frontend struct {
	// Service is the namespace and name, for messages.
	Service string
	// Cluster tells a cluster address from what is reached from outside (node ports, external addresses, load balancers).
	Cluster bool
	// Endpoints are those for everybody; with LocalOnly, for the pods and processes of this node.
	Endpoints []Endpoint
	// LocalOnly says that others get none but LocalEndpoints, with their own source address (externalTrafficPolicy: Local).
	LocalOnly      bool
	LocalEndpoints []Endpoint
	// Drop says that packets vanish while there are no Endpoints, because there are some on other nodes; otherwise they are refused.
	Drop bool
	// Affinity is for how long a client stays with its endpoint; 0 is not at all.
	Affinity time.Duration
	// Sources are the only ones that may use the address, if there are any (loadBalancerSourceRanges).
	Sources []netip.Prefix
}

func (f *Frontend) equal(o *Frontend) bool {
	return f.Cluster == o.Cluster && f.LocalOnly == o.LocalOnly && f.Drop == o.Drop && f.Affinity == o.Affinity &&
		slices.Equal(f.Endpoints, o.Endpoints) && slices.Equal(f.LocalEndpoints, o.LocalEndpoints) && slices.Equal(f.Sources, o.Sources)
}
