package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

const (
	// pluginTime is how long the plugins of a sandbox may take together; as long as the kubelet gives a call to the runtime.
	pluginTime = 2 * time.Minute
	// outputTime is how long processes that a plugin left behind may hold on to its output.
	outputTime = time.Second
	// busyPause and busyTries bound the wait for a plugin that is being written just now.
	busyPause = 100 * time.Millisecond
	busyTries = 50
	// searchPath is that of plugins if the process has none: they call iptables and others.
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// runner runs plugins. Unlike libcni's own it ends everything that a plugin started when its time is over.
type runner struct {
	version.PluginDecoder
	log *slog.Logger
}

// FindInPath implements invoke.Exec.
func (r *runner) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if os.Getenv("PATH") == "" {
		environ = append(environ, searchPath)
	}
	for try := 1; ; try++ {
		out, err := r.exec(ctx, path, stdin, environ)
		if !errors.Is(err, unix.ETXTBSY) || try == busyTries {
			return out, err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (r *runner) exec(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	c.WaitDelay = outputTime
	err := c.Run()
	if stderr.Len() > 0 {
		r.log.Debug("cni: plugin says", "plugin", filepath.Base(path), "text", strings.TrimSpace(stderr.String()))
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("the plugin was ended: %w", context.Cause(ctx))
	case errors.Is(err, unix.ETXTBSY):
		return nil, err
	}
	return nil, pluginError(err, stdout.Bytes(), stderr.Bytes())
}

// pluginError is what a plugin says of its failure: the error object of the specification, or whatever it wrote.
func pluginError(err error, stdout, stderr []byte) error {
	var e types.Error
	if json.Unmarshal(stdout, &e) == nil && (e.Msg != "" || e.Details != "" || e.Code != 0) {
		return &e
	}
	text := strings.TrimSpace(string(stdout) + "\n" + string(stderr))
	if text == "" {
		return fmt.Errorf("the plugin failed without a word: %w", err)
	}
	return fmt.Errorf("%s (%w)", text, err)
}
