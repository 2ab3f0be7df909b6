// Package apiserver serves the Kubernetes API over HTTP: one handler for every kind of the catalogue, and the few plain paths
// (/version, /healthz, /metrics) beside it.
//
// A request passes, in this order: recovery from panics, reading of what it asks (package request), its deadline,
// authentication, audit (package audit), impersonation, priority and fairness (package flow), authorization, and then the server that has
// its group version (Aggregator) or the verb. A write is decoded (package negotiate), turned into the hub
// type, defaulted, given its managed fields (package apply), admitted, validated, and written in one guarded transaction
// of the store. A read is written from the encodings that the store keeps of objects for a while: what many read is encoded once.
//
// What is particular to a kind is in its catalogue entry; code for one resource is here only where it is a real subresource
// (binding, eviction, scale, token, ...), a kind that is computed rather than stored (reviews), or the allocation of addresses
// and ports to services. The package must not know how users are told apart, who may do what, or how a node is reached: those
// come in through Config.
package apiserver
