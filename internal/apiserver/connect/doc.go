// Package connect serves the parts of the API that are streams to or through a node: logs, exec, attach and port-forward of
// pods, and the proxies to pods, services and nodes. It finds out where a request has to go, checks what it asks, and hands the
// connection on.
//
// Clients speak three protocols for streams. SPDY and the older WebSocket protocols are handed on byte by byte, because a node
// speaks them itself. The newer WebSocket protocols (v5.channel.k8s.io, KEP-4006; and SPDY tunnelled in WebSocket frames for
// port-forward) are unwrapped here, and the node is spoken to in SPDY.
//
// The package reads objects and never writes. The request was authenticated and authorized before.
package connect
