// Package objects holds the config maps and secrets that the pods of this node use: each is watched by its name from the
// first pod that needs it to the last, and no other is ever asked for. A change wakes the pods.
//
// It knows the API server only; it must not know what the objects are used for.
package objects
