// Package rootca publishes the cluster's CA in every namespace, as ConfigMap kube-root-ca.crt: the token volume of every pod mounts it.
package rootca
