// Package cni is the pod network of a node that others provide: plugins as the Container Network Interface specification (1.1.0 and before)
// describes them. It finds the configuration, runs the plugins, and remembers what they made.
//
// Whom it runs is said by the first valid file, by name, in the configuration directory, as in other container runtimes. The directory is watched:
// a configuration may come at any time, often from a pod of a DaemonSet, and until then the network is not ready.
//
// For each sandbox there is one file, written before the first plugin runs, with the configuration and everything else that the plugins were told. It is
// all that taking down needs: neither a restart nor a configuration that changed or went away leaves anything behind. What cannot be taken down
// is tried again until it is. Results are cached by libcni beside it.
//
// The package calls plugins in the network namespace of the calling thread, which is the host's. It knows nothing of the container runtime, of CRI, or of the
// Kubernetes API; the words of a request are those of package network.
package cni
