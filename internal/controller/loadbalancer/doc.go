// Package loadbalancer gives Services of type LoadBalancer addresses where no cloud does: those of the nodes. The service proxy of each node takes
// packets for them, so that nothing else stands between a client and the endpoints.
//
// Two decisions are functions of what the API says: who of several services has a port (claims.go: the older one, and never a port that the nodes
// use themselves), and which nodes' addresses a service gets (addresses.go). The controller around them writes the status, the finalizer
// service.kubernetes.io/load-balancer-cleanup and the events, with upstream's names, and marks what is its own by an annotation: a server that is told to
// leave load balancers to others (Config.Release) takes its hands off those, and only those.
//
// Services of other classes (spec.loadBalancerClass) are other controllers'. The package knows no proxy.
package loadbalancer
