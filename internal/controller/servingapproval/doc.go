// Package servingapproval approves the certificates that nodes serve their API with (signer kubernetes.io/kubelet-serving). Kubernetes leaves that to
// people, because who approves them has to know which addresses are the node's: here the Node object says so, and what it says must not be what
// another node says, too. Package certificates signs what is approved.
package servingapproval
