package sysctl

import (
	"fmt"
	"slices"
	"strings"
)

// Namespace is the kind of namespace that a setting belongs to; settings of the whole machine have none.
type Namespace string

// The kinds of namespaces with settings.
const (
	IPC Namespace = "ipc"
	Net Namespace = "net"
)

// Name writes a setting with dots, as it is compared: "net/ipv4/tcp_rmem" is "net.ipv4.tcp_rmem", and where dots come first, slashes
// are those of a name (sysctl.d(5)): "net.ipv4.conf.eth0/1.forwarding" is "net.ipv4.conf.eth0/1.forwarding".
func Name(s string) string {
	if i := strings.IndexAny(s, "./"); i < 0 || s[i] == '.' {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, s)
}

// namespaceOf says whose a setting is, or all that begin with prefix are.
func namespaceOf(prefix string) (Namespace, bool) {
	switch {
	case prefix == "kernel.sem", strings.HasPrefix(prefix, "kernel.shm"), strings.HasPrefix(prefix, "kernel.msg"), strings.HasPrefix(prefix, "fs.mqueue."):
		return IPC, true
	case strings.HasPrefix(prefix, "net."):
		return Net, true
	}
	return "", false
}

// leaves says that a name, as a path, would lead out of its place.
func leaves(name string) bool { return strings.Contains(name, "..") || strings.Contains(name, "//") }

// safe says whose namespace a setting belongs to, for those that a pod may change without touching its neighbours or using up the node
// (the list of Kubernetes 1.37).
func safe(name string) (Namespace, bool) {
	switch name {
	case "kernel.shm_rmid_forced":
		return IPC, true
	case "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem":
		return Net, true
	}
	return "", false
}

// Allowed are the settings that pods may change. The zero value is the safe ones. Read-only.
type Allowed struct{ names, prefixes []string }

// Parse adds settings to the safe ones: names, or beginnings of names with a "*" after them ("net.core.*", "kernel.msg*"). Only
// settings that namespaces have of their own can be given to pods.
func Parse(patterns []string) (Allowed, error) {
	var a Allowed
	for _, p := range patterns {
		name, all := strings.CutSuffix(Name(p), "*")
		if strings.Contains(name, "*") || leaves(name) {
			return Allowed{}, fmt.Errorf("%q is no name of a kernel setting, nor the beginning of one and a *", p)
		}
		if _, ok := namespaceOf(name); !ok {
			return Allowed{}, fmt.Errorf("the sysctl %q is not known to be of a namespace: use those of net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*", p)
		}
		if all {
			a.prefixes = append(a.prefixes, name)
		} else {
			a.names = append(a.names, name)
		}
	}
	return a, nil
}

// Namespace says whose a setting is, if pods may change it. The name may have dots or slashes.
func (a Allowed) Namespace(name string) (Namespace, bool) {
	name = Name(name)
	if ns, ok := safe(name); ok {
		return ns, true
	}
	if leaves(name) {
		return "", false
	}
	if slices.Contains(a.names, name) || slices.ContainsFunc(a.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
		return namespaceOf(name)
	}
	return "", false
}
