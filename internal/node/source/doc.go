// Package source gives the node its static pods: manifests in a directory, which the kernel tells about, and at a URL,
// which is asked now and then. A pod's identity is its content: a changed manifest is another pod.
//
// It must not know the API server.
package source
