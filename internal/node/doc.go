// Package node is the kubelet: it runs the pods that are bound to one node.
//
// Each pod has one goroutine (worker) with a state machine: events from the API, the runtime, the prober, the volumes and
// timers wake it, it looks (what does the pod want, what does the runtime report), decides (computeActions, a pure
// function) and acts (tasks: short-lived goroutines that pull, create, start, stop and tear down, one at a time per
// container). Whatever it finds becomes the pod's status (package status, also pure), which is written when it changed.
// Nothing polls.
//
// The sub-packages are the parts: observed (what the runtime reports), status, criconfig, env, downward, volume, objects
// (config maps and secrets of the node's pods), probe, hook, imagepull, podlog, cgroup, registration (the Node object and
// its lease), deviceplugin and dra (devices), pressure (eviction), source (static pods), stats and server (the kubelet's HTTPS API).
//
// The node knows the API server as a kubernetes.Interface and informers, and the runtime as CRI. It must not know the
// store, the network, or whether any of these live in its own process.
package node
