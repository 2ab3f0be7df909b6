// Package certificates takes certificate signing requests through their life: it approves what a kubelet asks for itself, if it may, signs what
// was approved for the signers that belong to the cluster, and removes requests that nobody needs any more. What each signer signs is a function
// of the request (signers.go), and so is when a request is over (expiry.go). It must not know where the authority's key comes from.
package certificates
