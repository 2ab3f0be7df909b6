// Package probe asks running containers whether they have started, are ready and are alive: by a command, HTTP, TCP or
// gRPC. One goroutine per probe and container sleeps between its questions; containers without probes cost nothing.
//
// It reports results and events through functions that it is given. It must not know what follows from a result.
package probe
