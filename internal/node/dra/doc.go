// Package dra has drivers prepare the devices that pods of this node have claimed (KEP-4381, the kubelet's part): before a pod's containers are made the driver of each of its claims' devices is
// asked over its socket (dra/v1 or v1beta1, NodePrepareResources), and what it answers — names of CDI devices — is given to the containers that use the claim. When the last pod
// of a claim on this node is over, the driver is asked to undo that.
//
// Drivers that can tell of the health of their devices are listened to (KEP-4680), and pods are told when it changes: a device is unknown that nobody spoke of for a while.
//
// What was asked is written to a file before and after, so that a node that is started again knows what must be undone.
// ResourceSlices of a driver that went away from the node are deleted after a while: what it published isn't to be had any more.
//
// The package knows claims and pods, drivers by their sockets, and nothing of containers or runtimes.
package dra
