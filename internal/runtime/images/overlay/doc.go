// Package overlay mounts an overlay file system from many layers. It stands alone, so that the small container runtime binary can
// link it without the image store.
package overlay
