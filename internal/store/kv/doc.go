// Package kv is the small key-value interface that the resource store stands on, with two engines: etcd (embedded in the
// process or external) and memory. Both pass one shared suite (kvtest) and differ only in durability.
//
// The package knows bytes and revisions. It must not know what an API object is, how it is encoded or who reads it.
package kv
