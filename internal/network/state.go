package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sandbox is what is remembered about one sandbox.
type sandbox struct {
	ID        string         `json:"id"`
	Pod       string         `json:"pod"` // "namespace/name", for messages
	NetNS     string         `json:"netns"`
	Addrs     []netip.Prefix `json:"addrs"` // each with the length of its range
	Ports     []PortMapping  `json:"ports,omitempty"`
	Bandwidth Bandwidth      `json:"bandwidth,omitzero"`
}

func (s *sandbox) ips() []netip.Addr {
	ips := make([]netip.Addr, len(s.Addrs))
	for i, a := range s.Addrs {
		ips[i] = a.Addr()
	}
	return ips
}

// stateSuffix tells the files of sandboxes from those that are being written.
const stateSuffix = ".json"

// checkID refuses ids that aren't the name of a file.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") || len(id) > 200 {
		return fmt.Errorf("%q can't be the id of a sandbox", id)
	}
	return nil
}

// remember writes a sandbox's file, whole or not at all. It isn't forced to the disk: a namespace doesn't outlive the machine either.
func remember(dir string, s *sandbox) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode state of sandbox: %w", err)
	}
	tmp := filepath.Join(dir, s.ID+".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("keep state of sandbox: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, s.ID+stateSuffix)); err != nil {
		return fmt.Errorf("keep state of sandbox: %w", err)
	}
	return nil
}

func forget(dir, id string) error {
	if err := os.Remove(filepath.Join(dir, id+stateSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget sandbox: %w", err)
	}
	return nil
}

// recall reads what earlier processes remembered, and forgets what can't be read or belongs to a namespace that is gone.
func recall(dir string, log *slog.Logger) ([]*sandbox, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	var out []*sandbox
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, ok := strings.CutSuffix(e.Name(), stateSuffix)
		var s sandbox
		if ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("pod network: %w", err)
			}
			if err := json.Unmarshal(b, &s); err != nil || s.ID != id || len(s.Addrs) == 0 {
				log.Warn("pod network: forgetting a sandbox whose state can't be read", "file", path, "err", err)
				ok = false
			} else if !isNetNS(s.NetNS) {
				log.Debug("pod network: forgetting a sandbox that is gone", "sandbox", id, "pod", s.Pod)
				ok = false
			}
		} else if !strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if ok {
			out = append(out, &s)
			continue
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("pod network: %w", err)
		}
	}
	return out, nil
}

// isNetNS says whether a namespace is pinned at path.
func isNetNS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
