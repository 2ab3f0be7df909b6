package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/celox/celox/internal/atomicfile"
)

const (
	// tcpLiberal, if it is 1, keeps connection tracking from taking packets of TCP for somebody else's by their numbers.
	tcpLiberal = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"
	liberal    = "1"
	// liberalFile, in the directory of the state, has what it was before it was set.
	liberalFile = "tcp-be-liberal"
)

// setLiberal turns it on and keeps what it was. The calling thread is in the machine's network namespace.
func setLiberal(stateDir string) error {
	data, err := os.ReadFile(tcpLiberal)
	if err != nil {
		return fmt.Errorf("connection tracking: %w", err)
	}
	was := strings.TrimSpace(string(data))
	if was == liberal { // by us, or by whoever had it so before
		return nil
	}
	if err := atomicfile.Write(filepath.Join(stateDir, liberalFile), []byte(was), 0o600, atomicfile.Synced); err != nil {
		return fmt.Errorf("keep what %s was: %w", tcpLiberal, err)
	}
	return setSysctl(tcpLiberal, liberal)
}

// restoreLiberal makes it what it was, if it was set and nobody else has changed it. The calling thread is in the machine's network namespace.
func restoreLiberal(stateDir string) error {
	file := filepath.Join(stateDir, liberalFile)
	was, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what %s was: %w", tcpLiberal, err)
	}
	now, err := os.ReadFile(tcpLiberal)
	switch {
	case errors.Is(err, fs.ErrNotExist): // no connections are tracked any more
	case err != nil:
		return fmt.Errorf("connection tracking: %w", err)
	case strings.TrimSpace(string(now)) == liberal:
		if err := setSysctl(tcpLiberal, string(was)); err != nil {
			return err
		}
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("what %s was: %w", tcpLiberal, err)
	}
	return nil
}
