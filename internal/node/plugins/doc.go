// Package plugins finds the programs that register with the node (the kubelet's plugin registration, pluginregistration/v1): each has a socket in a directory, says there what it is and
// where it serves, and is told whether it was accepted. A plugin is registered as long as its socket is there; a new socket in its place is a
// new registration.
//
// What a plugin does is the business of the [Handler] for its type.
package plugins
