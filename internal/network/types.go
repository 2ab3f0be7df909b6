package network

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/celox/celox/internal/network/shortcut"
)

// Config is what New needs.
type Config struct {
	// Bridge is the name of the bridge in the current network namespace; "celox0" by default.
	Bridge string
	// PodCIDRs are the node's ranges: one of IPv4, one of IPv6, or one of each.
	PodCIDRs []netip.Prefix
	// ClusterCIDRs are the ranges of the pods of all nodes: what goes there keeps its pod's address. Empty is this node's ranges alone.
	ClusterCIDRs []netip.Prefix
	// StateDir keeps one small file per sandbox, so that addresses outlive this process.
	StateDir string
	// MTU of the pods' interfaces; 0 follows that of the interface with the default route; without such a route it is 1500.
	MTU int
	// Shortcut is told of pods; nil is none. It outlives the network.
	Shortcut Shortcut
	Log      *slog.Logger

	linger time.Duration // lingerTime but for tests
}

// Shortcut carries standing connections between pods of this node past the machine, as far as somebody else lets it.
type Shortcut interface {
	// Program is the descriptor of what is asked about packets from pods.
	Program() int
	// Plug is called when a pod is connected, perhaps several times.
	Plug(shortcut.Pod) error
	// Unplug is called before the pod's addresses may be another's.
	Unplug(sandbox string) error
}

// SandboxRequest names a pod sandbox and its network namespace.
type SandboxRequest struct {
	// ID is the sandbox's id, which keys its addresses.
	ID string
	// Namespace, Name and UID are the pod's; they only make messages readable.
	Namespace, Name, UID string
	// NetNSPath is a file that pins the sandbox's network namespace.
	NetNSPath    string
	PortMappings []PortMapping
	Bandwidth    Bandwidth
	// DNS and Annotations are the pod's, for plugins that ask for them; the built-in network doesn't.
	DNS         DNS
	Annotations map[string]string
}

// DNS is what a pod's resolv.conf says.
type DNS struct {
	Servers, Searches, Options []string
}

// PortMapping publishes a port of the pod on the host.
type PortMapping struct {
	// Protocol is "TCP", "UDP" or "SCTP"; empty means TCP.
	Protocol                string
	ContainerPort, HostPort uint16
	// HostIP limits it to one address of the host; empty means all.
	HostIP string
}

// SandboxResult is what a sandbox got.
type SandboxResult struct {
	// IPs are the pod's addresses, in the order of Config.PodCIDRs.
	IPs []netip.Addr
}
