package runtime

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/celox/celox/internal/runtime/images"
)

// Config is what New needs.
type Config struct {
	// Root is the directory of the runtime; everything it keeps is below.
	Root string
	// Binary is the path of the celox-runtime program and BinaryVersion names its
	// content; package bundle provides both.
	Binary        string
	BinaryVersion string
	// CgroupRoot is the cgroup, an absolute path inside each hierarchy, below
	// which everything of this runtime lives; pods without a cgroup parent of
	// their own are put there, and Destroy removes it. Default: "/celox-" and a
	// hash of Root.
	CgroupRoot string
	Images     Images
	Network    Network
	// StreamAddress is where exec, attach and port-forward requests that come
	// over the CRI socket are answered; "127.0.0.1:0" by default. It is only
	// listened on after such a request.
	StreamAddress string
	// Version of Celox, semver, for CRI's Version.
	Version string
	Log     *slog.Logger
}

// Images is what the runtime wants from the image store.
type Images interface {
	Get(refOrID string) (images.Image, bool)
	List() []images.Image
	Pull(ctx context.Context, ref string, auth *images.Auth, progress func(images.Progress)) (images.Image, error)
	Remove(ctx context.Context, refOrID string) error
	FSInfo() (images.FSInfo, error)
	// Prepare makes the writable directories of a container over an image;
	// Release removes them. Containers lists those prepared.
	Prepare(ctx context.Context, imageID, containerID string) (images.Rootfs, error)
	Release(containerID string) error
	Containers() []string
}

// Network gives addresses to pod sandboxes.
type Network interface {
	// Setup connects the network namespace of a sandbox. If it fails the runtime
	// calls Teardown.
	Setup(ctx context.Context, req SandboxRequest) (SandboxResult, error)
	// Teardown takes back what Setup gave. It is called again after failures and
	// crashes, also for sandboxes that were never set up, and must not fail then.
	Teardown(ctx context.Context, req SandboxRequest) error
	// Retain is called once, when the runtime knows which sandboxes there are: what
	// others have may be taken back. It returns those that are not connected, for
	// example because another network has taken its place; they are made anew.
	Retain(ids []string) (lost []string)
	// Ready is nil when pods can be connected.
	Ready() error
}

// SandboxRequest names a pod sandbox that wants an address.
type SandboxRequest struct {
	ID        string
	Namespace string
	Name      string
	UID       string
	// NetNSPath is a file that pins the network namespace. It may be gone when
	// Teardown is called.
	NetNSPath    string
	PortMappings []PortMapping
	// Annotations are the pod's.
	Annotations map[string]string
	DNS         DNSConfig
}

// DNSConfig is what a pod's resolv.conf says.
type DNSConfig struct {
	Servers, Searches, Options []string
}

// PortMapping publishes a port of the pod on the host.
type PortMapping struct {
	// Protocol is "TCP", "UDP" or "SCTP".
	Protocol      string
	ContainerPort uint16
	HostPort      uint16
	// HostIP limits it to one address of the host; empty means all.
	HostIP string
}

// SandboxResult is what a sandbox got.
type SandboxResult struct {
	// IPs are its addresses, the primary one first.
	IPs []netip.Addr
}
