package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/mesh"
	"github.com/celox/celox/internal/network/policy"
	"github.com/celox/celox/internal/network/proxy"
	"github.com/celox/celox/internal/runtime"
	"github.com/celox/celox/internal/runtime/holder"
)

// Reset stops and removes everything that the cluster of a data directory ever made on this machine. The cluster must not be running.
// What is not a cluster's directory is not touched. Sure is asked before anything is removed, when there is something to remove, and ends it with an error; nil
// doesn't ask.
func Reset(ctx context.Context, dataDir string, sure func() error, say Say) error {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if _, err := os.Stat(dataDir); errors.Is(err, os.ErrNotExist) {
		say("nothing to remove: %s does not exist", dataDir)
		return nil
	}
	if !marked(dataDir) {
		return fmt.Errorf("%s is no data directory of celox (the file %q that says so is not in it): nothing was removed", dataDir, markFile)
	}
	if os.Geteuid() != 0 {
		return errors.New("run as root")
	}
	release, err := lock(dataDir)
	if err != nil {
		return err
	}
	defer release()
	if sure != nil {
		if err := sure(); err != nil {
			return err
		}
	}
	log := slog.New(slog.DiscardHandler)
	say("stopping containers")
	if err := runtime.Reset(ctx, filepath.Join(dataDir, runtimeDir), log); err != nil {
		return fmt.Errorf("stop containers: %w", err)
	}
	say("removing the pod network")
	if err := resetPlugins(ctx, dataDir, log); err != nil {
		say("what plugins refused to remove stays: %v", err)
	}
	if err := resetNetwork(ctx, dataDir, say, log); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	if err := errors.Join(holder.KillCgroup(ctx, cgroupRoot(dataDir)), holder.RemoveCgroup(ctx, cgroupRoot(dataDir))); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	say("removing %s", dataDir)
	if err := unmountBelow(dataDir); err != nil {
		return err
	}
	// The mark goes last: a removal that was broken off can be done again.
	entries, err := os.ReadDir(dataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == markFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dataDir, e.Name())); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	if err := os.RemoveAll(dataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	say("done")
	return nil
}

// resetNetwork removes bridge and rules, if this cluster made them: a cluster that never had a node has no state of a network. Another node that runs in the
// same network namespace has them now, and keeps them.
func resetNetwork(ctx context.Context, dataDir string, say Say, log *slog.Logger) error {
	state := filepath.Join(dataDir, networkDir)
	_, builtIn := os.Stat(state)
	_, plugins := os.Stat(filepath.Join(dataDir, cniDir))
	if errors.Is(builtIn, os.ErrNotExist) && errors.Is(plugins, os.ErrNotExist) {
		return nil
	}
	free, err := claimNetwork(networkClaim)
	if errors.Is(err, errNetworkTaken) {
		say("rules and interfaces stay: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer free()
	var rules error
	if proxy.Probe() == nil { // a kernel that cannot have them has none
		rules = errors.Join(proxy.Remove(), policy.Remove())
	}
	return errors.Join(mesh.Reset(), rules, proxy.RestoreTimeouts(state), network.RemoveServiceAddresses(), network.Reset(ctx, network.Config{PodCIDRs: []netip.Prefix{}, StateDir: state, Log: log}))
}

// unmountBelow unmounts what is mounted below a directory, innermost first: volumes in memory, and what a crash left.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	var mounts []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		// The kernel writes spaces, tabs, newlines and backslashes as octal escapes.
		path := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if strings.HasPrefix(path, dir+"/") {
			mounts = append(mounts, path)
		}
	}
	slices.Sort(mounts)
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return nil
}
