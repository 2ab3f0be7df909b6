// Package runtime is the container runtime of a Celox node behind CRI v1: pod
// sandboxes, containers, their logs, exec, attach, port forwarding and
// statistics. Images come from package images, pod addresses from a Network;
// containers are made and held by the small process of package holder.
//
// A Service answers gRPC on a unix socket (Serve), so that crictl works, and
// the same calls without gRPC through the adapters Runtime and ImageManager,
// which is what the node in the same process uses.
//
// # What is kept where
//
// Below Config.Root:
//
//	sandboxes/ID.json   a pod sandbox: CRI configuration, addresses, phase
//	containers/ID.json  a container: CRI configuration, image, how it ended
//	run/                a tmpfs: all that means nothing after a reboot
//	run/sandboxes/ID/   pinned namespaces, /dev/shm, resolv.conf, hostname
//	run/containers/ID/  the mount point of the root file system
//	run/tasks/          the journal of the holder, and its FIFOs
//
// Records are replaced in one step and written before the thing that they
// describe is made, so that whatever a crash leaves half-made is found and
// removed by the next New.
//
// The package must not know the Kubernetes API, the kubelet, or how a Network
// makes addresses.
package runtime
