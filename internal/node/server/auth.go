package server

// Attributes say what a request to the kubelet API wants, in the terms of the API server's authorization: resource
// "nodes" with a subresource (KEP-2862).
type Attributes struct {
	Verb        string
	Node        string
	Subresource string // stats, metrics, log, pods, healthz, configz, proxy ...
	Path        string
}
