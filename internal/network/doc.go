// Package network is the built-in pod network of one node: a bridge, a pair of virtual interfaces for each pod sandbox, addresses
// from the node's ranges, masquerading of what leaves them, and host ports.
//
// What it makes, all in the network namespace in which [New] was called:
//
//   - the bridge, which has the first address of each range and is the pods' default gateway;
//   - for each sandbox one end of a veth pair on the bridge; the other end is made inside the sandbox's namespace as "eth0";
//   - the nftables table "celox", computed as a whole by [rulesFor] from the ranges and the host ports, and replaced in one transaction;
//   - one file for each sandbox in the state directory. These files are the only memory: addresses outlive the process, and what belongs to
//     a namespace that is gone is forgotten at the next start.
//
// Speed comes from what isn't done. The kernel removes a pair when its namespace goes away, so Teardown only forgets; a
// namespace that somebody holds on to is cut off a little later, in the background. A pod's hardware address follows from its IP address, so that
// neighbours that remember an address don't have to learn anything when it is used again, and the bridge is told at once where it is now.
//
// The package knows nothing of the container runtime, of CRI or of the Kubernetes API.
package network
