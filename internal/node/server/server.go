package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	cri "k8s.io/cri-api/pkg/apis"
	"k8s.io/cri-streaming/pkg/streaming"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// LogOptions are those of a request for a container's log.
type LogOptions struct {
	Follow, Previous, Timestamps bool
	SinceTime                    time.Time
	TailLines                    *int64
	LimitBytes                   *int64
	Stream                       string // "All", "Stdout", "Stderr" or ""
}

// Backend is the node as the server sees it. Errors are the API's own; others become 500.
type Backend interface {
	// Pods are the node's pods with their newest status.
	Pods() []*corev1.Pod
	// RunningPods are the pods that have a running container, from the runtime's view.
	RunningPods(ctx context.Context) ([]*corev1.Pod, error)
	// ContainerID is the running container of a pod; uid may be "".
	ContainerID(namespace, pod, uid, container string) (string, error)
	// SandboxID is the sandbox of a pod.
	SandboxID(ctx context.Context, namespace, pod, uid string) (string, error)
	// Logs writes a container's log. check is called once it is certain that there is a log.
	Logs(ctx context.Context, namespace, pod, container string, o LogOptions, begin func(), stdout, stderr io.Writer) error
	Summary(ctx context.Context) (*statsapi.Summary, error)
	Configuration() any
}

// Config is what a Server is given.
type Config struct {
	NodeName  string
	Backend   Backend
	Runtime   cri.RuntimeService
	Streaming streaming.Runtime // nil: proxy to the runtime's URLs
	LogDir    string            // of the node, served at /logs/
	// Metrics, Probes, Cadvisor and Resource are the registries behind the four metrics paths.
	Metrics, Probes, Cadvisor, Resource prometheus.Gatherer
	Authenticate                        func(*http.Request) (user.Info, bool, error)
	Authorize                           func(ctx context.Context, u user.Info, a Attributes) (bool, string, error)
	Log                                 *slog.Logger
}

// Server serves the API.
type Server struct {
	Config
	mux *http.ServeMux
}

// New makes a Server.
func New(c Config) *Server {
	s := &Server{Config: c, mux: http.NewServeMux()}
	handle := func(pattern string, h http.HandlerFunc) { s.mux.HandleFunc(pattern, h) }
	handle("GET /healthz", plainOK)
	handle("GET /healthz/{check}", plainOK)
	handle("GET /pods", s.pods)
	handle("GET /pods/{$}", s.pods)
	handle("GET /runningpods", s.runningPods)
	handle("GET /runningpods/{$}", s.runningPods)
	handle("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	handle("GET /configz", s.configz)
	handle("GET /stats/summary", s.summary)
	handle("GET /stats/{$}", s.summary)
	handle("GET /logs/{path...}", s.nodeLogs)
	handle("/exec/{namespace}/{pod}/{container}", s.exec)
	handle("/exec/{namespace}/{pod}/{uid}/{container}", s.exec)
	handle("/attach/{namespace}/{pod}/{container}", s.attach)
	handle("/attach/{namespace}/{pod}/{uid}/{container}", s.attach)
	handle("/portForward/{namespace}/{pod}", s.portForward)
	handle("/portForward/{namespace}/{pod}/{uid}", s.portForward)
	handle("POST /run/{namespace}/{pod}/{container}", s.run)
	handle("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	for path, g := range map[string]prometheus.Gatherer{
		"/metrics": c.Metrics, "/metrics/probes": c.Probes, "/metrics/cadvisor": c.Cadvisor, "/metrics/resource": c.Resource,
	} {
		if g != nil {
			s.mux.Handle("GET "+path, promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
		}
	}
	return s
}

// ServeHTTP authenticates, authorizes and serves.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u, ok, err := s.Authenticate(r)
	if err != nil || !ok {
		if err != nil {
			s.Log.Debug("cannot authenticate a request", "path", r.URL.Path, "error", err)
		}
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	a := s.attributes(r)
	names := []string{a.Subresource}
	if a.Subresource == "pods" || a.Subresource == "healthz" || a.Subresource == "configz" {
		names = append(names, "proxy") // who may do everything may do this too
	}
	var allowed bool
	var reason string
	for _, name := range names {
		a.Subresource = name
		if allowed, reason, err = s.Authorize(r.Context(), u, a); err != nil {
			s.Log.Warn("cannot authorize a request", "user", u.GetName(), "path", r.URL.Path, "error", err)
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=[%s])", u.GetName(), a.Verb, name), http.StatusInternalServerError)
			return
		}
		if allowed {
			break
		}
	}
	if !allowed {
		s.Log.Debug("refused a request", "user", u.GetName(), "path", r.URL.Path, "reason", reason)
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%s)\n", u.GetName(), a.Verb, names), http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// attributes maps a request to what has to be allowed.
func (s *Server) attributes(r *http.Request) Attributes {
	a := Attributes{Node: s.NodeName, Path: r.URL.Path, Subresource: "proxy"}
	switch r.Method {
	case http.MethodPost:
		a.Verb = "create"
	case http.MethodPut:
		a.Verb = "update"
	case http.MethodPatch:
		a.Verb = "patch"
	case http.MethodDelete:
		a.Verb = "delete"
	default:
		a.Verb = "get"
	}
	for prefix, sub := range map[string]string{
		"/stats": "stats", "/metrics": "metrics", "/logs": "log", "/pods": "pods", "/runningpods": "pods", "/healthz": "healthz", "/configz": "configz",
	} {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			a.Subresource = sub
		}
	}
	return a
}

func plainOK(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok")
}

// fail answers with an error of the API, as text: the API server makes a Status of it.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code != 0 {
		code = int(status.Status().Code)
	}
	http.Error(w, err.Error(), code)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that left
}

func podList(pods []*corev1.Pod) *corev1.PodList {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []corev1.Pod{}}
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	return list
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) { reply(w, podList(s.Backend.Pods())) }

func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	pods, err := s.Backend.RunningPods(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, podList(pods))
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	reply(w, map[string]any{"kubeletconfig": s.Backend.Configuration()})
}

func (s *Server) summary(w http.ResponseWriter, r *http.Request) {
	sum, err := s.Backend.Summary(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	if only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")); only {
		small := &statsapi.Summary{Node: statsapi.NodeStats{NodeName: sum.Node.NodeName, StartTime: sum.Node.StartTime, CPU: sum.Node.CPU, Memory: sum.Node.Memory}, Pods: []statsapi.PodStats{}}
		for _, p := range sum.Pods {
			q := statsapi.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory}
			for _, c := range p.Containers {
				q.Containers = append(q.Containers, statsapi.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory})
			}
			small.Pods = append(small.Pods, q)
		}
		sum = small
	}
	reply(w, sum)
}

func (s *Server) nodeLogs(w http.ResponseWriter, r *http.Request) {
	if s.LogDir == "" {
		http.NotFound(w, r)
		return
	}
	http.StripPrefix("/logs/", http.FileServer(http.Dir(s.LogDir))).ServeHTTP(w, r)
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var o LogOptions
	var err error
	boolean := func(name string) bool {
		v := q.Get(name)
		if v == "" {
			return false
		}
		b, perr := strconv.ParseBool(v)
		if perr != nil {
			err = fmt.Errorf("%s: %q is not a boolean", name, v)
		}
		return b
	}
	number := func(name string) *int64 {
		v := q.Get(name)
		if v == "" {
			return nil
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil || n < 0 {
			err = fmt.Errorf("%s: %q must be a number that is not negative", name, v)
		}
		return &n
	}
	o.Follow, o.Previous, o.Timestamps = boolean("follow"), boolean("previous"), boolean("timestamps")
	o.TailLines, o.LimitBytes = number("tailLines"), number("limitBytes")
	if q.Get("tailLines") == "all" {
		o.TailLines, err = nil, nil
	}
	if n := number("sinceSeconds"); n != nil {
		o.SinceTime = time.Now().Add(-time.Duration(*n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		t, perr := time.Parse(time.RFC3339Nano, v)
		if perr != nil {
			err = fmt.Errorf("sinceTime: %w", perr)
		}
		o.SinceTime = t
	}
	switch o.Stream = q.Get("stream"); o.Stream {
	case "", corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
	default:
		err = fmt.Errorf("stream: %q must be All, Stdout or Stderr", o.Stream)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	out := &flusher{w: w, follow: o.Follow}
	begun := false
	begin := func() {
		begun = true
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusOK)
		if o.Follow {
			out.flush()
		}
	}
	err = s.Backend.Logs(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), o, begin, out, out)
	switch {
	case err == nil || r.Context().Err() != nil:
		if !begun && err == nil {
			begin()
		}
	case !begun:
		fail(w, err)
	default:
		s.Log.Debug("a log could not be read to its end", "path", r.URL.Path, "error", err)
	}
}

// flusher sends each line on at once if somebody follows.
type flusher struct {
	w      http.ResponseWriter
	follow bool
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if f.follow {
		f.flush()
	}
	return n, err
}

func (f *flusher) flush() {
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
}
