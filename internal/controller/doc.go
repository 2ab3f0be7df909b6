// Package controller is the frame that every controller stands in: a queue of keys with retries, back-off and metrics, the workers that
// take from it, and the record of writes that a controller has made but not yet seen come back (Pending). A controller itself is a struct with listers,
// a client and a clock, in a package of its own below this one, whose Reconcile(ctx, key) makes the world look like the object says.
//
// The frame must not know any kind, and a controller must not import another controller, the scheduler or the API server.
package controller
