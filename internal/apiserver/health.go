package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// healthChecks are the lines of one health path.
type healthChecks struct {
	name   string
	checks []Check
}

// health prepares /livez, /readyz and /healthz. Each begins with "ping", which always succeeds, and has the checks of the
// configuration.
func (s *Server) health() {
	ping := Check{Name: "ping", Run: func(context.Context) error { return nil }}
	s.live = healthChecks{name: "livez", checks: []Check{ping}}
	s.ready = healthChecks{name: "readyz", checks: []Check{ping}}
	for _, c := range s.cfg.Checks {
		if !c.ReadyOnly {
			s.live.checks = append(s.live.checks, c)
		}
		s.ready.checks = append(s.ready.checks, c)
	}
}

func (h *healthChecks) named(name string) *healthChecks {
	return &healthChecks{name: name, checks: h.checks}
}

// serve answers "ok", or which check failed. With ?verbose every check is told; ?exclude leaves some out; a path below is one check.
func (h *healthChecks) serve(s *Server, w http.ResponseWriter, r *http.Request) {
	plain := func(code int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.WriteHeader(code)
		if r.Method != http.MethodHead {
			_, _ = w.Write([]byte(text)) // a client that is gone
		}
	}
	rest := strings.Trim(strings.TrimPrefix(r.URL.Path, "/"+h.name), "/")
	if rest != "" {
		i := slices.IndexFunc(h.checks, func(c Check) bool { return c.Name == rest })
		if i < 0 {
			notFoundPage(w)
			return
		}
		if err := h.checks[i].Run(r.Context()); err != nil {
			s.log.Warn("health check failed", "path", r.URL.Path, "error", err)
			plain(http.StatusInternalServerError, fmt.Sprintf("internal server error: %v\n", err))
			return
		}
		plain(http.StatusOK, "ok")
		return
	}
	q := r.URL.Query()
	exclude := q["exclude"]
	var out bytes.Buffer
	var failed []string
	for _, c := range h.checks {
		if i := slices.Index(exclude, c.Name); i >= 0 {
			exclude = slices.Delete(slices.Clone(exclude), i, i+1)
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Run(r.Context()); err != nil {
			s.log.Warn("health check failed", "path", r.URL.Path, "check", c.Name, "error", err)
			failed = append(failed, c.Name)
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.Name)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.Name)
	}
	if len(exclude) > 0 {
		quoted := make([]string, len(exclude))
		for i, e := range exclude {
			quoted[i] = strconv.Quote(e)
		}
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(quoted, ", "))
	}
	switch {
	case len(failed) > 0:
		fmt.Fprintf(&out, "%s check failed\n", h.name)
		plain(http.StatusInternalServerError, out.String())
	case q.Has("verbose"):
		fmt.Fprintf(&out, "%s check passed\n", h.name)
		plain(http.StatusOK, out.String())
	default:
		plain(http.StatusOK, "ok")
	}
}
