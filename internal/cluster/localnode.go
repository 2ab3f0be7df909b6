package cluster

import (
	"context"
	"net/http"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/authn"
	"github.com/celox/celox/internal/apiserver/connect"
	"github.com/celox/celox/internal/apiserver/request"
)

// localNode finds the way to nodes: to the one in this process without a socket, to others by their addresses.
type localNode struct {
	name    string
	others  connect.Nodes
	handler atomic.Pointer[http.Handler]
}

// set tells that the node has started.
func (l *localNode) set(h http.Handler) { l.handler.Store(&h) }

// Locate implements connect.Nodes.
func (l *localNode) Locate(ctx context.Context, name string) (connect.Node, error) {
	if h := l.handler.Load(); h != nil && name == l.name {
		return connect.Node{Handler: *h}, nil
	}
	return l.others.Locate(ctx, name)
}

// authenticateKubelet finds out who uses the node's API: the API server in this process says so in the context, others by certificate
// or token.
func authenticateKubelet(a *authn.Authenticator) func(r *http.Request) (user.Info, bool, error) {
	return func(r *http.Request) (user.Info, bool, error) {
		if u, ok := request.UserFrom(r.Context()); ok {
			return u, true, nil
		}
		return a.AuthenticateRequest(r)
	}
}
