// Package memory is a kv.Engine that lives in memory: revisions, history until compaction, watches from any revision that is
// still there, leases, guarded transactions and a size quota, with the same answers as etcd gives. It is for tests, for the
// simulator and for throw-away clusters; nothing survives the process.
//
// It must not know what the keys mean.
package memory
