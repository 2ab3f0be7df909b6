// Package trustbundle publishes whose certificates the API server serves with, as the ClusterTrustBundle of signer
// kubernetes.io/kube-apiserver-serving (KEP-3257): pods mount it with a clusterTrustBundle projection. The bundle's name follows from its
// contents; other bundles of the signer are of former authorities and are deleted.
package trustbundle
