// Package mesh lets the pods of one node reach those of the others.
//
// What has to be is a function ([plan]) of what this node has, what the others have, and which of them are neighbours on the same segment: a route to a
// neighbour's pods goes by way of the neighbour itself, at the full MTU; pods of a node behind a router are reached through a VXLAN tunnel (RFC 7348), whose
// forwarding entries are all written here, so that nothing is ever flooded or learned. The way is chosen for each pair of nodes and each family of pods; both
// ends choose alike. Where encryption is wanted, all ways go through one WireGuard device, and what cannot is refused.
//
// [Mesh] holds the kernel to it: routes of its own protocol number in the main table, and the devices of tunnels. It looks again when the nodes change, and
// when somebody removes a route, an address or a device. It also looks whether the ways work, with echo requests between the gateways of the nodes' pods (by
// convention the first address of each network), and reports those that don't. It knows neither the API nor the network of the pods on this node.
package mesh
