package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// component is what the API server is called on the pages that tell of it.
const component = "apiserver"

// statusz is the structured form of /statusz (KEP-4827). Both of its versions look the same.
type statusz struct {
	metav1.TypeMeta
	Metadata         zpageMeta   `json:"metadata"`
	StartTime        metav1.Time `json:"startTime"`
	UptimeSeconds    int64       `json:"uptimeSeconds"`
	GoVersion        string      `json:"goVersion"`
	BinaryVersion    string      `json:"binaryVersion"`
	EmulationVersion string      `json:"emulationVersion,omitempty"`
	Paths            []string    `json:"paths"`
}

// flagz is the structured form of /flagz (KEP-4828).
type flagz struct {
	metav1.TypeMeta
	Metadata zpageMeta         `json:"metadata"`
	Flags    map[string]string `json:"flags,omitempty"`
}

type zpageMeta struct {
	Name string `json:"name"`
}

// serveStatusz tells what runs here and since when.
func (s *Server) serveStatusz(w http.ResponseWriter, r *http.Request) {
	v := &s.cfg.Version
	st := statusz{
		Metadata: zpageMeta{component}, StartTime: metav1.NewTime(s.started), UptimeSeconds: int64(s.clock.Since(s.started) / time.Second),
		GoVersion: runtime.Version(), BinaryVersion: v.Major + "." + v.Minor, EmulationVersion: v.Major + "." + v.Minor, Paths: s.debugPaths(),
	}
	serveZPage(w, r, "Statusz", func(b *strings.Builder) {
		n := st.UptimeSeconds
		fmt.Fprintf(b, "Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n", st.StartTime.Format(time.UnixDate),
			n/3600, n/60%60, n%60, st.GoVersion, st.BinaryVersion, st.EmulationVersion, strings.Join(st.Paths, " "))
	}, func(t metav1.TypeMeta) any {
		st.TypeMeta = t
		return st
	})
}

// serveFlagz tells what the server was told when it was started.
func (s *Server) serveFlagz(w http.ResponseWriter, r *http.Request) {
	flags := s.cfg.Flags()
	serveZPage(w, r, "Flagz", func(b *strings.Builder) {
		for _, name := range slices.Sorted(maps.Keys(flags)) {
			fmt.Fprintf(b, "%s=%s\n", name, flags[name])
		}
	}, func(t metav1.TypeMeta) any { return flagz{t, zpageMeta{component}, flags} })
}

// serveZPage answers with text for people, or with an object for programs that ask for a version of it.
func serveZPage(w http.ResponseWriter, r *http.Request, kind string, text func(*strings.Builder), object func(metav1.TypeMeta) any) {
	page := strings.ToLower(kind)
	version, ok := zpageVersion(r.Header.Get("Accept"), kind)
	h := w.Header()
	switch {
	case !ok:
		http.Error(w, "only the following media types are accepted: text/plain, application/json;as="+kind+";v=v1beta1;g=config.k8s.io", http.StatusNotAcceptable)
	case version == "":
		var b strings.Builder
		fmt.Fprintf(&b, "\n%s %s\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\n", component, page)
		text(&b)
		h.Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(b.String())) // a client that is gone
	default:
		if version == "v1alpha1" {
			h.Set("Warning", `299 - "This version of the `+page+` endpoint is deprecated. Please use a newer version."`)
		}
		data, err := json.Marshal(object(metav1.TypeMeta{Kind: kind, APIVersion: "config.k8s.io/" + version}))
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		h.Set("Content-Type", negotiate.JSON)
		_, _ = w.Write(data) // a client that is gone
	}
}

// zpageVersion reads which form is wanted: "" is the text for people. The first that is known wins.
func zpageVersion(accept, kind string) (version string, ok bool) {
	if strings.TrimSpace(accept) == "" {
		return "", true
	}
	for one := range strings.SplitSeq(accept, ",") {
		media, p, err := mime.ParseMediaType(one)
		if err != nil {
			continue
		}
		switch {
		case media == negotiate.JSON && p["as"] == kind && p["g"] == "config.k8s.io" && (p["v"] == "v1beta1" || p["v"] == "v1alpha1"):
			return p["v"], true
		case media == "text/plain", media == "text/*", media == "*/*":
			return "", true
		}
	}
	return "", false
}

// debugPaths are the first segments of what is served for looking into the server.
func (s *Server) debugPaths() []string {
	out := []string{"/healthz", "/livez", "/readyz"}
	for p := range s.plain {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		switch first {
		case "", "openid", ".well-known", "index.html", "debug":
		default:
			out = append(out, "/"+first)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
