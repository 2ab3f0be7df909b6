// Package cluster composes the rooms into a server: store, API server, controllers, scheduler, runtime, network and node. It is the only
// package that knows all of them, and knows nothing of what they do inside. It also owns what belongs to a machine rather than to a
// room: the data directory and its lock, the listeners, the kubeconfig, and the removal of everything.
package cluster
