// Package policy enforces NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) on the pods of one node,
// in nftables.
//
// # Where the decision is made
//
// Each node enforces what its own pods may send (egress) and receive (ingress), where packets are forwarded. Every packet of a pod is: the network
// leads also those to a neighbour by way of the gateway. Packets between a pod and its own node are not forwarded, and so never refused: the kubelet's probes,
// processes of the node and pods with the host's network reach the node's pods, and pods reach the node's name server. A pod reaches itself.
//
// Where there is a shortcut past all of that ([WithShortcut]), only pods that are not restricted are on it: they are taken off before rules for them come into force.
//
// # Connections that stand
//
// No packet is accepted because its connection is established. Rules look at the connection, not at the packet: the client is the source of the
// connection's first packet (ct original saddr), the server is whoever sends the replies (ct reply saddr, ct reply proto-src). Both directions of a connection, and ICMP errors
// that concern it, have the same three values, so they have the same verdict: replies pass as long as a new connection of this client to this server would.
// A policy that changes cuts or frees what stands with the next packet, at the instant of the transaction, and no entry of the connection table has to be found
// and deleted. These values are those after the translation of services (the pod, not the cluster address) and before that of sources (the client's own address).
// A packet without a connection (an invalid one) is dropped if it comes from or goes to a restricted pod.
//
// # What is in the kernel
//
// One table per family. The maps "ingress" and "egress" lead from the address of a restricted pod of this node to a chain; pods with the same rules share a chain, whose name is the hash of what
// it says. A chain asks sets: addresses of the pods that a selector selects ("pods-…", shared by all rules with an equal selector), networks of ipBlocks ("nets-…"), and
// address, protocol and port for named ports of other pods ("ports-…"). Only sets and chains that a pod of this node needs exist. A pod that comes or
// goes anywhere is one element in each set that selects it. Without a restricted pod there is no table.
//
// # Names of domains
//
// Rules may name domains. Names has their addresses, of which the node's name server tells it before an answer leaves: the answer waits until they are in a set ("names-…"). When the time of an
// address is over it leaves the set; if a connection stands to it, it is in another then ("lapsed-…"), which is asked for connections that were answered only, until none stands.
//
// # No hole
//
// A change is one transaction. A restart, or a repair after somebody else changed our tables, builds new tables beside those in force and swaps them in one transaction; a process that is killed
// before leaves those in force. While no process runs they stay. A pod's rules are there before its first packet: Attach returns when they are in force, and the
// runtime starts no process in a sandbox before. After a restart sandboxes are known from the pod network's own state; one whose pod the API does
// not know is shut in. Attach waits until the policies have been read once, so without the API no new pod gets on the network unrestricted.
//
// # The parts
//
// parse.go and clusterpolicy.go turn API objects into rules; state.go is the incremental compiler: what there is in, Desired out, without I/O; build.go makes one
// pod's chain. nftables.go holds the kernel to Desired, in the words of express.go and message.go; watch.go notices when others change our tables. enforcer.go and
// clusterpolicies.go follow the API. names.go follows the name server, domains.go compares names, connections.go asks which connections stand.
// The package knows neither the pod network, nor services, nor the node agent.
package policy
