// Package cgroup keeps the pods' part of the cgroup tree: <root>/kubepods[/burstable|/besteffort]/pod<UID>, on cgroup v1,
// v2 and hybrid machines. The runtime makes the containers' groups below a pod's group.
//
// It is the only place that writes to the cgroup file system on behalf of the node. It must not know pods: it is told
// names and limits.
package cgroup
