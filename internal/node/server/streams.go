package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	streamIdle     = 4 * time.Hour
	streamCreation = 30 * time.Second
	// interrupted is the exit code of a command whose caller has left: that of one that was interrupted at a terminal.
	interrupted = 130
)

// adapter makes a streaming.Runtime serve what remotecommand and portforward ask: their "container" and "pod name" are
// the ids that we hand to them.
type adapter struct{ streaming.Runtime }

func (a adapter) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	ended := a.Runtime.Exec(ctx, container, cmd, in, out, err, tty, resize)
	if ended != nil && ctx.Err() != nil {
		return utilexec.CodeExitError{Err: ended, Code: interrupted} // anything else would be logged as an error of ours
	}
	return ended
}

func (a adapter) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return a.Runtime.Attach(ctx, container, in, out, err, tty, resize)
}

func (a adapter) PortForward(ctx context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
	return a.Runtime.PortForward(ctx, sandbox, port, stream)
}

// streamOptions reads which streams are wanted, in the kubelet's words (input, output, error) and in the API's (stdin,
// stdout, stderr).
func streamOptions(r *http.Request) (*remotecommand.Options, error) {
	q := r.URL.Query()
	is := func(names ...string) bool {
		for _, n := range names {
			if v := q.Get(n); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	o := &remotecommand.Options{Stdin: is("input", "stdin"), Stdout: is("output", "stdout"), Stderr: is("error", "stderr"), TTY: is("tty")}
	if o.TTY {
		o.Stderr = false // a terminal has one output
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return nil, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	id, err := s.Backend.ContainerID(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"))
	if err != nil {
		fail(w, err)
		return
	}
	o, err := streamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	cmd := r.URL.Query()["command"]
	if len(cmd) == 0 {
		http.Error(w, "you must specify a command", http.StatusBadRequest)
		return
	}
	if s.Streaming != nil {
		remotecommand.ServeExec(w, r, adapter{s.Streaming}, r.PathValue("pod"), r.PathValue("uid"), id, cmd, o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
		return
	}
	resp, err := s.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: cmd, Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
	s.proxy(w, r, resp.GetUrl(), err)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	id, err := s.Backend.ContainerID(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"))
	if err != nil {
		fail(w, err)
		return
	}
	o, err := streamOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.Streaming != nil {
		remotecommand.ServeAttach(w, r, adapter{s.Streaming}, r.PathValue("pod"), r.PathValue("uid"), id, o, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
		return
	}
	resp, err := s.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: id, Tty: o.TTY, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
	s.proxy(w, r, resp.GetUrl(), err)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	id, err := s.Backend.SandboxID(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		fail(w, err)
		return
	}
	o, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.Streaming != nil {
		portforward.ServePortForward(w, r, adapter{s.Streaming}, id, r.PathValue("uid"), o, streamIdle, streamCreation, portforward.SupportedProtocols)
		return
	}
	resp, err := s.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: o.Ports})
	s.proxy(w, r, resp.GetUrl(), err)
}

// proxy hands the connection on to the URL that the runtime gave.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request, target string, err error) {
	if err != nil {
		http.Error(w, grpcstatus.Convert(err).Message(), http.StatusInternalServerError)
		return
	}
	u, err := url.Parse(target)
	if err != nil {
		http.Error(w, "the runtime gave a bad URL", http.StatusInternalServerError)
		return
	}
	p := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL = u
			pr.Out.Host = u.Host
			pr.Out.Header.Del("Authorization")
		},
		FlushInterval: -1,
	}
	p.ServeHTTP(w, r)
}

// run runs a command and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, err := s.Backend.ContainerID(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"))
	if err != nil {
		fail(w, err)
		return
	}
	cmd := r.FormValue("cmd")
	if cmd == "" {
		http.Error(w, "you must specify a command", http.StatusBadRequest)
		return
	}
	stdout, stderr, err := s.Runtime.ExecSync(r.Context(), id, splitWords(cmd), 0)
	var exit utilexec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(append(stdout, stderr...)) // a client that left
}

// splitWords splits at blanks, as the endpoint always did.
func splitWords(s string) []string {
	var out []string
	word := ""
	for _, r := range s + " " {
		if r != ' ' {
			word += string(r)
			continue
		}
		if word != "" {
			out = append(out, word)
		}
		word = ""
	}
	return out
}
