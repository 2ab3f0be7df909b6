// Package wayout opens connections from a machine to servers elsewhere: straight, or through the HTTP proxy (CONNECT, RFC 9110 section 9.3.6) that the environment
// names in HTTPS_PROXY, but for what NO_PROXY excepts, as clients of Kubernetes do. It knows nothing of what is said on a connection.
package wayout
