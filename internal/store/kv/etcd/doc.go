// Package etcd is a kv.Engine over etcd v3: Start runs a server of one member inside the process, on a data directory, and talks to it
// by function calls; Connect talks to an etcd cluster that others run.
//
// The embedded server listens on nothing unless Config.Listen names a socket for etcdctl:
//
//	etcdctl --endpoints unix:///var/lib/celox/etcd/etcd.sock get --prefix --keys-only /registry
//
// An idle server neither writes nor elects: compaction is asked for by the store above, when there is something to compact.
//
// The package must not know what the keys mean.
package etcd
