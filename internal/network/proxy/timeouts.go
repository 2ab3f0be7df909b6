package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/celox/celox/internal/atomicfile"
)

const (
	trackingDir = "/proc/sys/net/netfilter"
	// timeoutsFile, in the directory of the state, has what the settings were before they were set.
	timeoutsFile = "tcp-timeouts"
)

// timeouts are how many seconds the kernel remembers a connection of which nothing is heard, as kube-proxy has them by default. One that a side has
// closed may have data to send for an hour; the kernel alone would forget after a minute to which endpoint it goes.
func timeouts() map[string]string {
	return map[string]string{"nf_conntrack_tcp_timeout_close_wait": "3600", "nf_conntrack_tcp_timeout_established": "86400"}
}

// SetTimeouts has the network namespace that the calling thread is in remember connections as long as services need it, and keeps in a directory what
// was before.
func SetTimeouts(stateDir string) error {
	file := filepath.Join(stateDir, timeoutsFile)
	before, err := readTimeouts(file)
	if err != nil {
		return err
	}
	changed := false
	for name, want := range timeouts() {
		now, err := os.ReadFile(filepath.Join(trackingDir, name))
		if err != nil {
			return fmt.Errorf("connection tracking: %w", err)
		}
		if was := strings.TrimSpace(string(now)); was != want {
			before[name], changed = was, true
		}
	}
	if !changed {
		return nil
	}
	data, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("keep timeouts of connections: %w", err)
	}
	if err := errors.Join(os.MkdirAll(stateDir, 0o700), atomicfile.Write(file, data, 0o600, atomicfile.Synced)); err != nil {
		return fmt.Errorf("keep timeouts of connections: %w", err)
	}
	for name := range before {
		if err := setTimeout(name, timeouts()[name]); err != nil {
			return err
		}
	}
	return nil
}

// RestoreTimeouts makes them what they were, but for those that somebody else has changed since.
func RestoreTimeouts(stateDir string) error {
	file := filepath.Join(stateDir, timeoutsFile)
	before, err := readTimeouts(file)
	if err != nil {
		return err
	}
	for name, was := range before {
		now, err := os.ReadFile(filepath.Join(trackingDir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist): // no connections are tracked any more
		case err != nil:
			return fmt.Errorf("connection tracking: %w", err)
		case strings.TrimSpace(string(now)) == timeouts()[name]:
			if err := setTimeout(name, was); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("timeouts of connections: %w", err)
	}
	return nil
}

func setTimeout(name, seconds string) error {
	if err := os.WriteFile(filepath.Join(trackingDir, name), []byte(seconds), 0); err != nil {
		return fmt.Errorf("connection tracking: %w", err)
	}
	return nil
}

// readTimeouts returns what is kept of our own settings.
func readTimeouts(file string) (map[string]string, error) {
	before := map[string]string{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return before, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	if err != nil {
		return nil, fmt.Errorf("timeouts of connections: %w", err)
	}
	for name := range before {
		if _, ok := timeouts()[name]; !ok {
			delete(before, name)
		}
	}
	return before, nil
}
