package network

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/records"
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

// checkID refuses ids that aren't the name of a file.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") || len(id) > 200 {
		return fmt.Errorf("%q can't be the id of a sandbox", id)
	}
	return nil
}

// recall reads what earlier processes remembered, and forgets what can't be read or belongs to a namespace that is gone.
func recall(dir string, log *slog.Logger) ([]*sandbox, error) {
	var out []*sandbox
	err := records.Recall(dir, func(id, file string, data []byte) bool {
		var s sandbox
		if err := json.Unmarshal(data, &s); err != nil || s.ID != id || len(s.Addrs) == 0 {
			log.Warn("pod network: forgetting a sandbox whose state can't be read", "file", file, "err", err)
			return false
		}
		if !isNetNS(s.NetNS) {
			log.Debug("pod network: forgetting a sandbox that is gone", "sandbox", id, "pod", s.Pod)
			return false
		}
		out = append(out, &s)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	return out, nil
}

// isNetNS says whether a namespace is pinned at path.
func isNetNS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
