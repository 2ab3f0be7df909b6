// Package podcertificate removes PodCertificateRequests a quarter of an hour after they were made (KEP-4317): by then the node has what it asked for,
// or asks again. Signing is not its business: that is for the signers whom pods name.
package podcertificate
