// Package images is the image store of a node: it pulls from registries, imports archives, verifies and unpacks layers, and
// hands out the overlay directories that a container's root file system is mounted from.
//
// What lies below the root directory, which one process owns (a lock says so):
//
//	index.json           every image and every layer; the only truth, replaced atomically
//	blobs/sha256/<hex>   manifests and image configs, as the registry sent them
//	s/<n>/               one unpacked layer; short names, because overlayfs has a limit on the length of its options
//	c/<container id>/    a container's writable directory (u), overlay's work directory (w), and a link that names its layers
//	tmp/                 everything unfinished
//
// A layer is unpacked straight from the network, once: its compressed digest, then its diff id are computed while it streams,
// and the compressed form is never kept, because nothing would read it again. A layer is shared between all
// images that have it; a layer that leaves out its parent directories takes their attributes from the layers below it and is
// therefore shared by chain id only.
//
// Nothing becomes visible before it is whole: layers are unpacked below tmp and renamed, images exist once the index names
// them. Whatever the index doesn't name is removed by [Open].
//
// What comes from outside is not believed: sizes, numbers and depths have limits ([Limits]), paths are resolved by the kernel inside
// the layer's directory (openat2 with RESOLVE_IN_ROOT), and attributes that steer overlayfs itself are dropped.
//
// The package knows nothing of CRI, pods or Kubernetes. Errors carry a [Kind] that a caller can act on.
package images
