// Package simulate runs a cluster of hollow nodes against a real API server and measures what its users would feel.
//
// A [Scenario] is a list of operations: make nodes, namespaces and pods, churn, scale, fail nodes, wait. [Run] carries them out one after another through
// the API that its Config names, and returns a [Report]: how many pods a second got a node, how long pods took to start, how long requests took, how much memory the
// process had, all of it over time too. A Report is written as JSON or drawn as SVG.
//
// A hollow node is a Node object, a Lease that is renewed and a hand that reports the pods on it as running, finished and gone, after delays that the scenario
// gives or, if they are virtual, at once. All hollow nodes share one watch of pods and one client. Scenarios named as upstream's scheduler_perf workloads, with the same
// shapes of nodes and pods, are built in; their nodes have no hand, as upstream's.
//
// The package knows the API only through client-go. Who starts the server is the caller's business.
package simulate
