// Package authn finds out who sent a request: by the client certificate of its connection, by the headers of a trusted front
// proxy, by a service account token, by the bootstrap token of a node that joins, or by a token from a file. Requests that show nothing are anonymous where that is
// allowed. It also makes service account tokens (the serviceaccounts/token subresource, and the older tokens that live in
// secrets), publishes the keys to check them with (OpenID Connect discovery) and answers token reviews.
//
// Service account tokens are good for as long as what they are bound to lives: each use looks at the account, the pod, the
// secret or the node in the server's memory. Signatures are checked once and remembered.
//
// The package reads objects and writes nothing. Whether somebody may do what he asks is for package authz.
package authn
