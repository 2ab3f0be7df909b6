package etcd

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname
)

// watchResyncPeriod is how often etcd looks whether a watch has to catch up, which it does for ever, also when there is none: ten
// wake-ups a second, more than everything else that an idle Celox does. etcd keeps it in a variable for its own tests; there is no
// option. Only watches from old revisions wait for it; pump takes care that the others do not fall behind.
//
//go:linkname watchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var watchResyncPeriod time.Duration

// slowDown sets the period before the first server starts; later ones find it set.
var slowDown = sync.OnceFunc(func() { watchResyncPeriod = 500 * time.Millisecond })
