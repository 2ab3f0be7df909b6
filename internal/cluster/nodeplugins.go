package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/cni"
	"github.com/celox/celox/internal/network/mesh"
)

const (
	// pluginState and pluginDirs, in the directory of the plugins, have what is known of sandboxes, and where the plugins are: a reset needs them.
	pluginState = "sandboxes"
	pluginDirs  = "bin-dirs"
)

// openPlugins opens the network of plugins if they connect pods, or did: then what they made is still to be taken down.
func (n *nodeNetwork) openPlugins(cfg *config.Node) error {
	dir := filepath.Join(cfg.DataDir, cniDir)
	c := cni.Config{
		ConfDir: cfg.CNIConfDir, BinDirs: cfg.CNIBinDirs, StateDir: filepath.Join(dir, pluginState), Ranges: n.ownRanges, Changed: func() { n.changed() }, Log: n.log,
	}
	if !n.external {
		if !cni.Has(c.StateDir) {
			return nil
		}
		c.ConfDir = ""
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	text, err := json.Marshal(cfg.CNIBinDirs)
	if err == nil {
		err = writeFile(filepath.Join(dir, pluginDirs), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("pod network: keep where the plugins are: %w", err)
	}
	if n.external {
		if n.ranges, err = readRanges(filepath.Join(dir, rangesFile)); err != nil {
			return err
		}
		v6 := slices.ContainsFunc(n.cluster, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if err := network.Forward(true, v6); err != nil {
			return err
		}
		if err := cni.PrepareHost(n.log); err != nil {
			return err
		}
	}
	n.plugins, err = cni.New(c)
	return err
}

// retire takes down what the built-in network made, now that plugins connect pods. Pods that it connected are made anew: the plugins give addresses of the same ranges.
func (n *nodeNetwork) retire() error {
	// What a node keeps for a time without the API is beside its state, and stays.
	if _, err := os.Stat(filepath.Join(n.stateDir, rangesFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(mesh.Reset(), network.Reset(context.Background(), network.Config{StateDir: n.stateDir, Log: n.log}))
}

// ownRanges are the ranges that the cluster gave to this node.
func (n *nodeNetwork) ownRanges() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ranges
}

// tell takes note of the node's ranges, which plugins may ask for.
func (n *nodeNetwork) tell(ranges []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ranges = ranges
	return writeRanges(filepath.Join(filepath.Dir(n.stateDir), cniDir, rangesFile), ranges)
}

// resetPlugins has plugins take down what they made for the cluster of a data directory.
func resetPlugins(ctx context.Context, dataDir string, log *slog.Logger) error {
	dir := filepath.Join(dataDir, cniDir)
	text, err := os.ReadFile(filepath.Join(dir, pluginDirs))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var dirs []string
	if err == nil {
		err = json.Unmarshal(text, &dirs)
	}
	if err != nil {
		return fmt.Errorf("where the plugins are: %w", err)
	}
	return cni.Reset(ctx, cni.Config{BinDirs: dirs, StateDir: filepath.Join(dir, pluginState), Log: log})
}
