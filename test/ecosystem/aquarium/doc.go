// Command aquarium is an API server of somebody else's: it serves fishes (in namespaces, with a status) and tanks (without) in a group
// of their own, and runs in a pod behind an APIService. As such servers do it believes the front proxy of the cluster who asks, asks
// the cluster whether they may, and keeps its objects itself: in memory, with a journal in a directory that outlives its container.
//
// It describes itself as old servers do, without aggregated discovery and without OpenAPI v3. It knows client-go and nothing of Celox.
package main
