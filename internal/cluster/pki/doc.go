// Package pki makes and keeps the keys and certificates of a cluster as files below one directory: the cluster's certificate
// authority, which signs serving and client certificates; the authority of the front proxy, which signs the identity that
// the server shows to aggregated API servers; the certificates of the components; and the key that signs service account tokens.
//
// Ensure creates what is missing and renews what is about to expire. It never replaces an authority or the service account
// key: losing those means a new cluster. A certificate that was renewed is picked up by TLS configurations that were handed
// out before.
//
// The package knows nothing of the API, of HTTP or of who uses a certificate for what.
package pki
