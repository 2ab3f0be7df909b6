package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network"
)

// overlap is what a machine has in a range of the cluster.
type overlap struct {
	network.Overlap
	text string
}

// overlaps compares the ranges of the cluster with what the machine has already.
func overlaps(pods, services []netip.Prefix) ([]overlap, error) {
	var out []overlap
	for _, ranges := range []struct {
		flag string
		all  []netip.Prefix
	}{{"cluster-cidr", pods}, {"service-cidr", services}} {
		found, err := network.Overlaps(ranges.all)
		if err != nil {
			return nil, fmt.Errorf("pod network: %w", err)
		}
		for _, o := range found {
			out = append(out, overlap{o, fmt.Sprintf("--%s %v: the cluster needs a range that nobody else has (for a new cluster, start the server with another --%s)", ranges.flag, o, ranges.flag)})
		}
	}
	return out, nil
}

// isNode says that the network whose state is in a directory has connected pods of this machine before.
func isNode(stateDir string) bool {
	_, err := os.Stat(filepath.Join(stateDir, rangesFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// checkRanges refuses ranges that the machine is in itself, before a new cluster has them for ever; those of one that runs are looked at by checkOverlaps.
func (s *Server) checkRanges() error {
	if s.cfg.Disables(config.PodNetwork) || isNode(filepath.Join(s.cfg.DataDir, networkDir)) {
		return nil
	}
	pods, err := s.cfg.ClusterCIDRs()
	if err != nil {
		return err
	}
	services, err := s.cfg.ServiceCIDRs()
	if err != nil {
		return err
	}
	found, err := overlaps(pods, services)
	if err != nil {
		return err
	}
	for _, o := range found {
		if o.Address.IsValid() {
			return errors.New(o.text)
		}
	}
	return nil
}

// checkOverlaps tells of overlaps. A machine that is in one of the ranges itself cannot work, so it doesn't become a node; on one that is a node, what came later is
// only told of, as are routes, of which the one to the smaller network counts.
func (n *nodeNetwork) checkOverlaps(h *host) error {
	was := isNode(n.stateDir)
	found, err := overlaps(n.cluster, h.facts.serviceCIDRs)
	if err != nil {
		return err
	}
	for _, o := range found {
		if o.Address.IsValid() && !was {
			return errors.New(o.text)
		}
		n.log.Warn("pod network: ranges overlap", "what", o.text)
	}
	return nil
}
