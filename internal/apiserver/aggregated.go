package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Aggregator passes requests on to the servers that other groups of the API come from.
type Aggregator interface {
	// HasGroup says whether another server has a version of the group.
	HasGroup(name string) bool
	// Serve answers a request for a group version that another server has. False: it has none, and nothing was done.
	Serve(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion, u user.Info) bool
}

// serveElsewhere passes a request on if its group version is another server's.
func (s *Server) serveElsewhere(x *exchange) bool {
	if s.cfg.Aggregator == nil {
		return false
	}
	gv := schema.GroupVersion{Group: x.info.Group, Version: x.info.Version}
	if !x.info.IsResource {
		rest, ok := strings.CutPrefix(x.info.Path, "/apis/")
		if !ok {
			return false
		}
		gv.Group, gv.Version, _ = strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	}
	if gv.Group == "" || gv.Version == "" {
		return false
	}
	return s.cfg.Aggregator.Serve(x.w, x.r, gv, x.user)
}

// hasGroupElsewhere says whether another server has a part of a group.
func (s *Server) hasGroupElsewhere(name string) bool {
	return s.cfg.Aggregator != nil && s.cfg.Aggregator.HasGroup(name)
}
