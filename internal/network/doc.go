// Package network is the built-in pod network of one node: a pair of virtual interfaces for each pod sandbox, addresses from the
// node's ranges, masquerading of what leaves them, and host ports.
//
// What it makes, all in the network namespace in which [New] was called:
//
//   - a bridge that nothing is plugged into: it has the first address of each range, which is the pods' default gateway;
//   - for each sandbox one end of a veth pair, with a route to each of its addresses; the other end is made inside the sandbox's namespace as "eth0";
//   - the nftables table "celox", computed as a whole by [rulesFor] from the ranges and the host ports, and replaced in one transaction;
//   - one file for each sandbox in the state directory. These files are the only memory: addresses outlive the process, and what belongs to
//     a namespace that is gone is forgotten at the next start.
//
// Each pod is alone on its wire. Whatever frames it writes are seen by the machine alone, which routes packets that have an address of this pod as
// their source, and drops all others. So what pods say to each other goes where services and policies see it, and none speaks in another's name. Who has which
// address is never asked on the wire: both ends are told.
//
// Speed comes from what isn't done. The kernel removes a pair when its namespace goes away, so Teardown only forgets; a
// namespace that somebody holds on to is cut off a little later, in the background. An address that is used again is routed to its new pod at once. To connect a
// pod takes four calls of the kernel, in an order in which it has to wait for itself once only (see attach).
//
// The package knows nothing of the container runtime, of CRI or of the Kubernetes API.
package network
