// Command pulse has the health that it is told to have, for probes by gRPC, HTTP and TCP: it answers well until a file says otherwise. It
// knows nothing of Kubernetes.
package main
