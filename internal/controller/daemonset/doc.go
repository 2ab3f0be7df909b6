// Package daemonset keeps one pod of each DaemonSet on every node that should have one, replaces them when the template changes, and keeps the
// history of templates. It decides by node and binds through node affinity; the scheduler places the pods.
package daemonset
