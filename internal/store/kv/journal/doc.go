// Package journal is a kv.Engine for what may be lost: everything is in memory (package memory), and what happens is written behind
// into one file, without waiting for the disk. After an orderly end everything is there again, at the same revision; after a crash of the
// process all but the last tenth of a second; after a power failure what the system had written by then. History does not survive: lists and
// watches from before the restart expire, as after a compaction, and revisions never go back. A write costs a tenth of what it
// costs in etcd.
//
// It is what events are kept in, which are about half of everything that a cluster writes and which the API promises nobody
// (upstream's clusters give them an etcd of their own for the same reason). It must not know that: it knows keys and bytes.
package journal
