// Package dynamicresources decides which devices a claim gets (KEP-4381, structured parameters).
//
// [Inventory] is told of what there is: ResourceSlices, DeviceClasses, DeviceTaintRules and ResourceClaims. It knows at any moment which devices are
// there, what taints they have, and what is taken: by claims as the API shows them, and by those that were promised devices and that the API doesn't show yet
// ([Inventory.Promise]), so that no device is given away twice. [Inventory.Prepare] makes an [Ask] of the claims of one pod that have no devices yet,
// and [Ask.Allocate] finds devices for all of them on a node, or says why there are none.
//
// The search is complete: if there is a choice of devices that satisfies everything, it is found, and of the alternatives of a request the first one that
// works is taken. It goes through requests in their order, takes one device after another and goes back when it is stuck; a device that is to the
// search the same as one that led nowhere is not tried. A limit bounds it.
//
// What doesn't change is not computed again: expressions are evaluated once for each device as it was published, and whether claims of a form can
// be satisfied on a node is remembered until something about the node's devices changes.
//
// The package does no I/O, reads no clock, and knows pods and nodes only by what it is told. It is not safe for concurrent use.
package dynamicresources
