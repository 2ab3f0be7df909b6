// Package resourcemetrics is metrics.k8s.io: what nodes, pods and containers use of CPU and memory now, for `kubectl top` and for
// autoscalers. A Collector asks the nodes what they have counted (/metrics/resource of each node's own API, so that a node in this
// process and one far away are the same), and an API makes objects of two such readings.
//
// Nothing is collected unless somebody wants to know: the first question after a pause wakes the collector, which takes two readings in
// a second; as long as questions come it takes one every fifteen seconds, and a minute after the last one it sleeps and has forgotten
// everything. Autoscalers ask all the time, so where there is one the collector is awake.
//
// The package knows what nodes say and what the objects look like. It must not know HTTP, negotiation, nor how a node is reached.
package resourcemetrics
