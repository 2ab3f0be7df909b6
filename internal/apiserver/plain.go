package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// notFoundPage is the answer to a path that nobody serves.
func notFoundPage(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write([]byte("404 page not found\n")) // a client that is gone
}

// plainPaths collects what is served beside the resources, by exact path.
func (s *Server) plainPaths() {
	s.plain = map[string]http.Handler{
		"/version":      http.HandlerFunc(s.version),
		"/version/":     http.HandlerFunc(s.version),
		"/metrics":      s.metrics.handler(),
		"/metrics/slis": s.outcomes.handler(),
		"/statusz":      http.HandlerFunc(s.serveStatusz),
		"/":             http.HandlerFunc(s.index),
		"/index.html":   http.HandlerFunc(s.index),
	}
	if s.cfg.Flags != nil {
		s.plain["/flagz"] = http.HandlerFunc(s.serveFlagz)
	}
	for p, h := range s.flow.Debug() {
		s.plain[p] = h
	}
	if h := s.cfg.OpenIDConfiguration; h != nil {
		h = s.getOnly(h)
		s.plain["/.well-known/openid-configuration"] = h
		s.plain["/.well-known/openid-configuration/"] = h
	}
	if h := s.cfg.KeySet; h != nil {
		h = s.getOnly(h)
		s.plain["/openid/v1/jwks"] = h
		s.plain["/openid/v1/jwks/"] = h
	}
}

// servePlain answers a request for a path that is no resource.
func (s *Server) servePlain(x *exchange) {
	p := x.info.Path
	if h := s.plain[p]; h != nil {
		h.ServeHTTP(x.w, x.r)
		return
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	switch first {
	case "healthz":
		s.live.named("healthz").serve(s, x.w, x.r)
		return
	case "livez":
		s.live.serve(s, x.w, x.r)
		return
	case "readyz":
		s.ready.serve(s, x.w, x.r)
		return
	case "api", "apis":
		if !strings.HasPrefix(p, "//") {
			if at := strings.TrimRight(p, "/"); len(p)-len(at) > 1 { // more slashes at the end say no more than one
				if first == "apis" && strings.Trim(rest, "/") == "" {
					notFoundPage(x.w)
					return
				}
				if x.r.Method != http.MethodGet {
					x.fail(methodNotAllowed())
					return
				}
				r := x.r.Clone(x.r.Context())
				r.URL.Path, r.URL.RawPath = at+"/", ""
				x.r = r
			}
			s.serveDiscovery(x, first, strings.TrimRight(rest, "/"))
			return
		}
	case "version":
		if strings.Trim(rest, "/") == "" {
			s.version(x.w, x.r)
			return
		}
		x.fail(noSuchResource())
		return
	case "debug":
		if rest == "pprof" {
			http.Redirect(x.w, x.r, p+"/", http.StatusFound)
			return
		}
		if h := profiles(rest); h != nil {
			h.ServeHTTP(x.w, x.r)
			return
		}
	case "openapi":
		if s.cfg.OpenAPI != nil && rest != "" {
			s.cfg.OpenAPI.ServeHTTP(x.w, x.r)
			return
		}
	}
	notFoundPage(x.w)
}

// profiles answers what `go tool pprof` asks of a running server, at the paths of upstream's.
func profiles(path string) http.Handler {
	first, name, _ := strings.Cut(path, "/")
	if first != "pprof" {
		return nil
	}
	switch name {
	case "cmdline":
		return http.HandlerFunc(pprof.Cmdline)
	case "profile":
		return http.HandlerFunc(pprof.Profile)
	case "symbol":
		return http.HandlerFunc(pprof.Symbol)
	case "trace":
		return http.HandlerFunc(pprof.Trace)
	}
	return http.HandlerFunc(pprof.Index)
}

// serveDiscovery hands on what can be a discovery document and tells apart what is no group from what is no version.
func (s *Server) serveDiscovery(x *exchange, root, rest string) {
	if root == "api" && rest != "" && rest != "v1" {
		x.fail(noSuchResource())
		return
	}
	if root == "apis" && rest != "" {
		group, version, _ := strings.Cut(rest, "/")
		ours := s.customs.HasGroup(group) || s.hasGroupElsewhere(group)
		if group == "" || !s.groups[group] && !ours {
			notFoundPage(x.w)
			return
		}
		if version != "" && !ours && !s.knownVersion(group, version) {
			x.fail(noSuchResource())
			return
		}
	}
	if s.cfg.Discovery == nil {
		notFoundPage(x.w)
		return
	}
	if x.r.Method != http.MethodGet && !s.anyMethod(root, rest) {
		x.fail(methodNotAllowed())
		return
	}
	s.cfg.Discovery.ServeHTTP(x.w, x.r)
}

// anyMethod says whether a discovery document is given whatever the method: the list of groups, what is known of one, and of the versions of custom resources. Those of
// the core, of versions, and of the group whose objects make groups are for GET alone.
func (s *Server) anyMethod(root, rest string) bool {
	group, _, versioned := strings.Cut(rest, "/")
	return root == "apis" && group != "apiregistration.k8s.io" && (!versioned || s.customs.HasGroup(group))
}

// getOnly refuses other methods than GET.
func (s *Server) getOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.otherMethod(w, r) {
			return
		}
		h.ServeHTTP(w, r)
	})
}

// otherMethod answers a request that is no GET, and says whether it was one.
func (s *Server) otherMethod(w http.ResponseWriter, r *http.Request) bool {
	x, ok := w.(*responseWriter)
	if r.Method == http.MethodGet || !ok {
		return false
	}
	(&exchange{s: s, w: x, r: r, scope: x.scope, info: &x.scope.Info}).fail(methodNotAllowed())
	return true
}

func (s *Server) knownVersion(group, version string) bool {
	for gv := range s.versions {
		if gv.Group == group && gv.Version == version {
			return true
		}
	}
	return false
}

// version tells the version of the API and of the program.
func (s *Server) version(w http.ResponseWriter, r *http.Request) {
	if s.otherMethod(w, r) {
		return
	}
	data, err := json.MarshalIndent(s.cfg.Version, "", "  ")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", negotiate.JSON)
	_, _ = w.Write(data) // a client that is gone
}

// index lists the paths that there are.
func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	paths := []string{"/apis", "/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/api", "/apis/"}
	for _, h := range [...]*healthChecks{s.live.named("livez"), s.ready.named("readyz"), s.live.named("healthz")} {
		for _, c := range h.checks {
			paths = append(paths, "/"+h.name+"/"+c.Name)
		}
	}
	for p := range s.plain {
		if p != "/" && !strings.HasSuffix(p, "/") && !strings.HasPrefix(p, "/debug/api_priority_and_fairness/") {
			paths = append(paths, p)
		}
	}
	for gv := range s.versions {
		if gv.Group == "" {
			paths = append(paths, "/api/"+gv.Version)
		} else {
			paths = append(paths, "/apis/"+gv.Group, "/apis/"+gv.String())
		}
	}
	for _, name := range s.customs.Groups() {
		paths = append(paths, "/apis/"+name)
		served, _ := s.customs.Definitions(name)
		for _, d := range served {
			for _, v := range d.Versions() {
				paths = append(paths, "/apis/"+v.Kind().GroupVersion().String())
			}
		}
	}
	slices.Sort(paths)
	data, err := json.MarshalIndent(metav1.RootPaths{Paths: slices.Compact(paths)}, "", "  ")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", negotiate.JSON)
	_, _ = w.Write(data) // a client that is gone
}
