// Package deviceplugin gives containers the devices of device plugins (the kubelet's API v1beta1): programs that register an extended resource with the node, at the socket
// kubelet.sock of a directory or by a socket of their own that package plugins finds, and tell which devices there are and how they are (ListAndWatch). The node says in its status
// how many there are. A pod that asks for some gets them when it comes to the node ([Manager.Assign]); what the plugin answers then — variables, mounts, device files, annotations, names of CDI devices —
// is put into its containers ([Manager.Options]). They are its own until it is over ([Manager.Release]).
//
// A plugin is there as long as its stream is. Without one, the node says that none of its devices can be had; after five minutes it says that there are none. Devices that pods have stay theirs.
// Which devices a container has is written to a file before the container is made, so that a node that is started again gives nothing twice.
//
// For one resource after the other is given, never two at a time: who asks waits for its turn, and if what it lacks belongs to pods that are over, for their end.
//
// The package knows pods, and plugins by their sockets. It knows nothing of containers that run, or of claims to devices (package dra). NUMA nodes of devices are remembered and shown, not heeded: as with the
// kubelet's policy "none", the plugin alone says which of its devices go well together.
package deviceplugin
