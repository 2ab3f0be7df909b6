// Package memory is a kv.Engine that lives in memory: revisions, history until compaction, watches from any revision that is
// still there, leases, guarded transactions and a size quota, with the same answers as etcd gives. It is for tests, and
// what the journal keeps is in it; by itself it survives nothing.
//
// It must not know what the keys mean.
package memory
