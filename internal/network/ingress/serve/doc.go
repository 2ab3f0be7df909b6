// Package serve carries requests from clients to the endpoints of backends: HTTP/1 by a data path of its own, HTTP/2 by net/http's server, both with the same
// decisions. Where requests go it is told by a route.Table and by lists of endpoints, which can be replaced at any time; what runs goes on with what it began with.
//
// It must not know the API. Everything that comes from a client or a backend has a bound: heads, connections, times.
package serve
