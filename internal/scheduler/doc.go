// Package scheduler decides on which node each pod runs.
//
// It has a core that is a function of its inputs and a shell around it that does the I/O.
//
// The core is [Snapshot]: all nodes as one array, everything that nodes and pods are compared by as small numbers (labels, taints, resources and
// images are interned), and what is in use on each node. It is told of every change as it happens, and [Snapshot.Decide] says where a pod should
// go, or why it can't go anywhere: per node, which plugin refused it. Nothing in there waits, reads a clock or talks to anybody.
//
// Plugins filter and score one node at a time and carry upstream's names, weights and messages; which of them work, and how, is said by the profile of the
// pod's schedulerName. Pods that are equal in everything that a plugin looks at form a class. What the plugins say of a node is kept for the class and asked
// again only when the node changes, and nodes are kept in buckets by their score, so that a decision for the next pod of a large set costs one evaluation, of the node that the last
// one went to. Plugins that look at other pods (inter-pod affinity, topology spread), at volumes and at claims are asked each time; the first two
// keep counters per node, which follow every change.
//
// [Snapshot.Preempt] says who would have to go so that a pod fits somewhere, at the least cost; that is kept per class and node in the same way. A node that pods are
// nominated for counts them for everybody who is no more important. [Snapshot.Diagnose] says everything that speaks against a pod, node by node.
//
// The shell is [Scheduler]: informers feed the snapshot and the queue; one goroutine takes pods from the queue in the order of their priority, decides, books
// the pod on its node at once and lets others carry out the binding, the volumes or the eviction, so that decisions never wait for the API. A pod that doesn't fit waits until
// something happens that lets it fit on the node where it happened; no other event wakes it.
//
// The package knows the API only through client-go's interfaces, and nothing of other rooms.
package scheduler
