// Package networktest gives tests machines: network namespaces with addresses of their own, wires between them, and servers and clients in them.
// It is for tests only and knows nothing of what they test.
package networktest
