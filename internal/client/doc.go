// Package client gives the rooms of a process their view of the API: a client-go clientset and an informer factory. In the
// server process requests are calls of the API server's own handler, without sockets, and informers are fed with the pointers that the
// store holds, so that every object exists once, by one goroutine for each kind (shared.go); on an agent the same interfaces speak HTTPS. Who uses them cannot tell which it is.
//
// The package must not know what any controller, the scheduler or the node does with a client.
package client
