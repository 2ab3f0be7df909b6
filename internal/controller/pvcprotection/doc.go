// Package pvcprotection keeps claims that pods use: a claim that is being deleted stays, by a finalizer, until no pod with a node names it. It also
// notes in each claim since when nobody uses it (KEP-5541). It must not know volumes.
package pvcprotection
