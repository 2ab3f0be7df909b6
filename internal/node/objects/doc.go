// Package objects holds the config maps and secrets that the pods of this node use: each is watched by its name from the
// first pod that needs it to the last, and no other is ever asked for. A change wakes the pods. Trust bundles and the node's requests for
// pods' certificates are watched as a whole from the first pod on that needs one.
//
// It knows the API server only; it must not know what the objects are used for.
package objects
