// Package proxy makes the addresses of services work on one node: cluster addresses, node ports, addresses of load balancers and external
// addresses lead to the endpoints that the API's EndpointSlices name. It is kube-proxy's part. The decision is the kernel's: verdict maps of
// nftables, so that a packet costs the same with one service and with thirty thousand, and a change costs what changed.
//
// State (services.go) turns Services, EndpointSlices and the node into Frontends: what is reachable where, and by which endpoints. A
// Datapath holds the kernel to it: NFTables (rules.go is what the kernel does with a packet, update.go and elements.go what it is told of a change),
// or package userspace where the kernel has no nf_tables. Neither knows the API server, the pod network or DNS.
package proxy
