package runtime

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilityNames are all capabilities by number, capabilities(7).
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities are what a container has that asks for nothing.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilitySet turns the bits of this process's effective set into names.
func capabilitySet(bits uint64) []string {
	var all []string
	for i, name := range capabilityNames {
		if bits&(1<<i) != 0 {
			all = append(all, name)
		}
	}
	return all
}

// capabilities computes the sets of a container from what it asks for. host is
// what this process may give away; what it lacks is left out, because a
// container with fewer rights is better than none.
func capabilities(sc *cri.LinuxContainerSecurityContext, host []string) (*specs.LinuxCapabilities, error) {
	set := map[string]bool{}
	fill := func(names []string) {
		for _, n := range names {
			set[n] = true
		}
	}
	want := sc.GetCapabilities()
	if sc.GetPrivileged() {
		fill(host)
	} else {
		add, err := normalizeCapabilities(want.GetAddCapabilities())
		if err != nil {
			return nil, err
		}
		drop, err := normalizeCapabilities(want.GetDropCapabilities())
		if err != nil {
			return nil, err
		}
		// ALL comes first on either side, then single names override it.
		fill(defaultCapabilities)
		if slices.Contains(add, "ALL") {
			fill(host)
		}
		if slices.Contains(drop, "ALL") {
			clear(set)
		}
		for _, n := range add {
			if n != "ALL" {
				set[n] = true
			}
		}
		for _, n := range drop {
			delete(set, n)
		}
	}
	var names []string
	for n := range set {
		if slices.Contains(host, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	caps := &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	ambient, err := normalizeCapabilities(want.GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	for _, n := range ambient {
		if slices.Contains(names, n) {
			caps.Ambient = append(caps.Ambient, n)
			caps.Inheritable = append(caps.Inheritable, n)
		}
	}
	return caps, nil
}

func normalizeCapabilities(names []string) ([]string, error) {
	var all []string
	for _, n := range names {
		up := strings.ToUpper(n)
		if up != "ALL" && !strings.HasPrefix(up, "CAP_") {
			up = "CAP_" + up
		}
		if up != "ALL" && !slices.Contains(capabilityNames, up) {
			return nil, fmt.Errorf("unknown capability %q", n)
		}
		all = append(all, up)
	}
	return all, nil
}
