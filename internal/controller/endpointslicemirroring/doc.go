// Package endpointslicemirroring copies Endpoints that somebody writes by hand, for a Service without a selector, into EndpointSlices, because
// those are all that service proxies and DNS read.
//
// What slices there should be is a function of the Endpoints object (mirror.go): one for each set of ports and family of addresses, with the labels and
// annotations of the object that it mirrors, owned by it. The controller around it compares that to what there is. Slices of others, and
// Endpoints that say that they are not to be mirrored, are left alone.
package endpointslicemirroring
