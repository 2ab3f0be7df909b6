package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/celox/celox/internal/network"
)

// checkOverlaps compares the ranges of the cluster with what the machine has already. A machine that is in one of them itself cannot work, so it doesn't become a
// node; on one that is a node, what came later is only told of, as are routes, of which the one to the smaller network counts.
func (n *nodeNetwork) checkOverlaps(h *host) error {
	_, err := os.Stat(filepath.Join(n.stateDir, rangesFile))
	isNode := !errors.Is(err, fs.ErrNotExist)
	for _, ranges := range []struct {
		flag string
		all  []netip.Prefix
	}{{"cluster-cidr", n.cluster}, {"service-cidr", h.facts.serviceCIDRs}} {
		found, err := network.Overlaps(ranges.all)
		if err != nil {
			return fmt.Errorf("pod network: %w", err)
		}
		for _, o := range found {
			text := fmt.Sprintf("--%s %v: the cluster needs a range that nobody else has (for a new cluster, start the server with another --%s)", ranges.flag, o, ranges.flag)
			if o.Address.IsValid() && !isNode {
				return errors.New(text)
			}
			n.log.Warn("pod network: ranges overlap", "what", text)
		}
	}
	return nil
}
