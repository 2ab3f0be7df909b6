package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/probe"
)

// Runner runs hooks. It is stateless.
type Runner struct {
	Executor probe.Executor
	Clock    clock.Clock
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
		resp, err := probe.NewHTTPClient(0).Do(req)
		if err != nil {
			return fmt.Errorf("http lifecycle hook (%s) for container %q failed: %w", h.HTTPGet.Path, c.Name, err)
		}
		defer resp.Body.Close()
		_, _ = io.CopyN(io.Discard, resp.Body, 10<<10)
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

func tail(b []byte) string {
	const limit = 500
	if len(b) > limit {
		b = b[len(b)-limit:]
	}
	return string(b)
}
