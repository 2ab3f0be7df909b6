package cni

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
)

// PrepareHost has packets between ports of one bridge go through the firewall: a pod that
// talks to a service whose endpoint is a neighbour on the bridge would get answers from an address that it never asked. What the kernel lacks is only warned of:
// not every plugin has a bridge.
func PrepareHost(log *slog.Logger) error {
	if _, err := os.Stat(bridgeCalls + "iptables"); err != nil {
		if out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
			log.Warn("cni: the kernel has no br_netfilter: with a plugin that makes a bridge, pods don't reach services by way of neighbours on it, and policies don't hold between them", "err", err, "text", string(out))
			return nil
		}
	}
	return errors.Join(set(bridgeCalls+"iptables"), set(bridgeCalls+"ip6tables"))
}

func set(path string) error {
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	return nil
}
