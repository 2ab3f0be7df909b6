// Package imagegc removes images that no container uses when the disk that holds them is nearly full: from a high mark of use down to a low
// one, those first that have not been used for longest, none that has just come.
//
// It must not know pods: an image is in use when the runtime has a container of it.
package imagegc
