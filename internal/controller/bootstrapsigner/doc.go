// Package bootstrapsigner signs ConfigMap cluster-info of kube-public with the bootstrap tokens that are meant for that (a detached JWS, RFC
// 7515, appendix F), so that a node that knows a token, and nothing else of the cluster, can tell that what it reads there is true.
//
// Where there is no such ConfigMap nothing is signed, and nothing is written while no token comes or goes. A token whose secret is not kept
// (celox token keeps a hash of it) cannot sign.
package bootstrapsigner
