// Package join is how a machine becomes a node of a cluster that runs elsewhere, and stays one.
//
// A token (token.go) names the cluster by the hash of its authority's public key and proves that somebody may join. With it the machine finds the
// authority (discover.go) without trusting anybody on the way, and asks for its first certificate as kubelets do (request.go): a
// CertificateSigningRequest of the signer kube-apiserver-client-kubelet. What it got is kept (identity.go) and renewed long before it ends (renew.go); the token is not
// needed again. The certificate that the node's own API is served with comes the same way, from the signer kubelet-serving.
//
// The package speaks to the API as a client, and knows neither the node agent nor the network.
package join
