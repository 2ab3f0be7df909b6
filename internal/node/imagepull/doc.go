// Package imagepull makes sure that a container's image is on the node: by its pull policy, with the pod's secrets and
// what the node's credential providers (package imagelogin) add, a few pulls at a time, one pull for everybody who waits for the same image, and with a back-off when a registry refuses.
//
// It reads nothing but what it is given and talks to the image service of CRI.
package imagepull
