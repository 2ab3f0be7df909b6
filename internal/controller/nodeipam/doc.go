// Package nodeipam gives each node its part of the addresses of pods: a network of the configured size out of each range of the cluster, in
// spec.podCIDRs. No two nodes have the same; a network is free again when its node's object is gone, and rests for as long as others are free.
//
// Which networks are taken is a function of the nodes that there are and of the writes that are under way: nothing is kept elsewhere. The
// controller knows no pod and no interface.
package nodeipam
