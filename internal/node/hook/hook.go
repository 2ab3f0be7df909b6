package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/probe"
)

// Runner runs hooks. It is stateless.
type Runner struct {
	Executor probe.Executor
	Clock    clock.Clock
	// FellBack, if set, is told when a hook that asks for HTTPS was answered in plain HTTP and worked that way.
	FellBack func(host string)
}

// Run runs one hook until it ends or ctx does. The error says what a person needs to know.
func (r *Runner) Run(ctx context.Context, c *corev1.Container, containerID, podIP string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		var timeout time.Duration
		if deadline, ok := ctx.Deadline(); ok {
			timeout = max(time.Until(deadline), time.Second)
		}
		stdout, stderr, err := r.Executor.ExecSync(ctx, containerID, h.Exec.Command, timeout)
		if err != nil {
			return fmt.Errorf("exec lifecycle hook (%q) for container %q failed: %w, message: %q", h.Exec.Command, c.Name, err, tail(append(stdout, stderr...)))
		}
		return nil
	case h.HTTPGet != nil:
		u, err := probe.HTTPURL(h.HTTPGet, c, podIP)
		if err != nil {
			return err
		}
		req, err := probe.Request(ctx, u, h.HTTPGet.HTTPHeaders)
		if err != nil {
			return err
		}
		if err := r.request(req); err != nil {
			return fmt.Errorf("http lifecycle hook (%s) for container %q failed: %w", h.HTTPGet.Path, c.Name, err)
		}
		return nil
	case h.Sleep != nil:
		t := r.Clock.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return fmt.Errorf("container terminated before sleep hook finished")
		case <-t.C():
			return nil
		}
	}
	return errors.New("invalid handler: no action is set")
}

// request asks for an answer; which one doesn't matter. Hooks were once sent in plain HTTP whatever their scheme was, so who still listens
// for that is asked again, without the credentials that were meant to be encrypted.
func (r *Runner) request(req *http.Request) error {
	client := probe.NewHTTPClient(0)
	err := discard(client.Do(req))
	if req.URL.Scheme != "https" || err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return err
	}
	plain := req.Clone(req.Context())
	plain.URL.Scheme = "http"
	plain.Header.Del("Authorization")
	if err := discard(client.Do(plain)); err != nil {
		return err
	}
	if r.FellBack != nil {
		r.FellBack(req.URL.Host)
	}
	return nil
}

func discard(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 10<<10)
	return nil
}

func tail(b []byte) string {
	const limit = 500
	if len(b) > limit {
		b = b[len(b)-limit:]
	}
	return string(b)
}
