// Package pods keeps the pods of an owner: it finds them by an index over the owner's uid, adopts and releases them by their labels, creates
// and deletes them in batches, and remembers what it wrote until the informer has seen it. Controllers of pods (ReplicaSet, Job, ...)
// share it; it does not know how many pods anybody wants, nor which.
package pods
