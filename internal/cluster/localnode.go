package cluster

import (
	"net/http"
	"sync/atomic"
)

// localNode is the kubelet API of the node in this process. It is empty until the node has started.
type localNode struct {
	name    string
	handler atomic.Pointer[http.Handler]
}

func (l *localNode) set(h http.Handler) { l.handler.Store(&h) }
