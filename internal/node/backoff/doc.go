// Package backoff remembers how often something failed lately and tells when it may be tried again: restarts of
// containers and pulls of images. It is a function of the times that it is given; it owns no timer and no goroutine.
package backoff
