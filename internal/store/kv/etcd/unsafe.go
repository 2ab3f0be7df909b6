package etcd

import (
	"errors"
	"reflect"
	"sync"
	"time"
	"unsafe" // also for go:linkname

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/pkg/v3/wait"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/raft/v3"
)

// watchResyncPeriod is how often etcd looks whether a watch has to catch up, which it does for ever, also when there is none: ten
// wake-ups a second, more than everything else that an idle Celox does. etcd keeps it in a variable for its own tests; there is no
// option. Only watches from old revisions wait for it; pump takes care that the others do not fall behind.
//
//go:linkname watchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var watchResyncPeriod time.Duration

// boltOpenOptions are how etcd opens its database. There is no option for its pages.
//
//go:linkname boltOpenOptions go.etcd.io/etcd/server/v3/storage/backend.boltOpenOptions
var boltOpenOptions *bolt.Options

// pageSize is that of the pages of a new database; one that exists keeps its own. A page is what is written at once, and etcd answers no write while it writes: with the
// four kilobytes of the kernel's pages, into which two pods go, 10,000 new values take 50 ms, and 30 with these. A value alone is written as fast.
const pageSize = 16 << 10

// tune sets etcd's variables before the first server starts; later ones find them set.
var tune = sync.OnceFunc(func() {
	watchResyncPeriod = 500 * time.Millisecond
	boltOpenOptions.PageSize = pageSize
})

// raftStatusOf returns the function that asks a server's Raft how far it is. etcd shows what it has applied itself, but not what Raft
// knows of that. The field is set when the server is made and never again.
func raftStatusOf(s *etcdserver.EtcdServer) (func() raft.Status, error) {
	if r := reflect.ValueOf(s).Elem().FieldByName("r"); r.IsValid() {
		if f := r.FieldByName("Node"); f.IsValid() {
			if node, ok := reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Interface().(*raft.Node); ok {
				return (*node).Status, nil
			}
		}
	}
	return nil, errors.New("this version of etcd keeps its Raft elsewhere")
}

// resultsOf returns where a server waits for what becomes of its requests. The field is set when the server is made and never again.
func resultsOf(s *etcdserver.EtcdServer) (wait.Wait, error) {
	if f := reflect.ValueOf(s).Elem().FieldByName("w"); f.IsValid() {
		if w, ok := reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Interface().(*wait.Wait); ok && *w != nil {
			return *w, nil
		}
	}
	return nil, errors.New("this version of etcd waits for its requests elsewhere")
}
