// Package store keeps API objects: one immutable copy of each object in memory for the whole process, over a kv.Engine that is
// the durable truth. A Collection holds one resource: it answers gets and lists from memory with upstream's resourceVersion
// semantics, writes through guarded transactions, and feeds watchers from one ring of events.
//
// An object that came out of the store is never modified: copy, change, write.
//
// The package must not know HTTP, admission, or what any kind means; a Collection is told by its Resource how to encode and index.
package store
