// Package cgroupfs is what the node and the container runtime both ask of the file system of cgroup version 2: to end everything in a
// group, and to be told when nothing is left in it. It takes directories and knows nothing of what the groups are for.
package cgroupfs
