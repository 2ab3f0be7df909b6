// Package tunnel lets servers reach nodes that only the node can call: behind address translation, or with a firewall before the port of their API.
//
// An agent keeps one connection to every server, opened with an HTTP/1.1 upgrade and its client certificate. On it the roles turn round: the server speaks HTTP/2
// (RFC 9113) as the client, and each connection that it wants is a stream with the method CONNECT (section 8.5). So streams have windows of their own, and one
// that nobody reads does not hold up others; pings find out that the other side is gone. Where a stream may lead is the agent's decision: see Agent.
//
// A Dialer chooses between the straight way to a node and its tunnel. What is said inside a stream is not this package's business: a server speaks TLS with the
// API of a node there, as on the straight way.
//
// The package knows nothing of the objects of a cluster.
package tunnel
