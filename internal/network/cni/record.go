package cni

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/records"
)

// interfaceName is what the interface of a pod is called inside.
const interfaceName = "eth0"

// record is what is remembered of a sandbox: enough to take it down.
type record struct {
	ID           string          `json:"id"`
	Pod          string          `json:"pod"` // "namespace/name", for messages
	NetNS        string          `json:"netns"`
	Args         [][2]string     `json:"args"`
	Capabilities map[string]any  `json:"capabilities"`
	Conf         json.RawMessage `json:"conf"` // the list of plugins that it was set up with
	IPs          []netip.Addr    `json:"ips,omitempty"`
}

func newRecord(req network.SandboxRequest, list *libcni.NetworkConfigList, ranges []netip.Prefix) (*record, error) {
	conf, err := whole(list)
	if err != nil {
		return nil, fmt.Errorf("keep network configuration %s: %w", list.Name, err)
	}
	return &record{
		ID: req.ID, Pod: req.Namespace + "/" + req.Name, NetNS: req.NetNSPath, Conf: conf, Capabilities: capabilities(req, ranges),
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", req.Namespace}, {"K8S_POD_NAME", req.Name}, {"K8S_POD_INFRA_CONTAINER_ID", req.ID}, {"K8S_POD_UID", req.UID},
		},
	}, nil
}

// burst is how much of a limited rate may come at once, in bits: as much as the field of the kernel's holds, as container runtimes have it.
const burst = 1<<32 - 1

// capabilities is what plugins are told that ask for it, in the form of the specification's conventions.
func capabilities(req network.SandboxRequest, ranges []netip.Prefix) map[string]any {
	out := map[string]any{}
	var ports []map[string]any
	for _, m := range req.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		ports = append(ports, map[string]any{"hostPort": m.HostPort, "containerPort": m.ContainerPort, "protocol": strings.ToLower(m.Protocol), "hostIP": m.HostIP})
	}
	if len(ports) > 0 {
		out["portMappings"] = ports
	}
	limits := map[string]any{}
	if b := req.Bandwidth.Ingress; b > 0 {
		limits["ingressRate"], limits["ingressBurst"] = b, uint64(burst)
	}
	if b := req.Bandwidth.Egress; b > 0 {
		limits["egressRate"], limits["egressBurst"] = b, uint64(burst)
	}
	if len(limits) > 0 {
		out["bandwidth"] = limits
	}
	var sets [][]map[string]string
	for _, r := range ranges {
		sets = append(sets, []map[string]string{{"subnet": r.String()}})
	}
	if len(sets) > 0 {
		out["ipRanges"] = sets
	}
	if d := req.DNS; len(d.Servers)+len(d.Searches)+len(d.Options) > 0 {
		out["dns"] = map[string][]string{"servers": d.Servers, "searches": d.Searches, "options": d.Options}
	}
	if len(req.Annotations) > 0 {
		out["io.kubernetes.cri.pod-annotations"] = req.Annotations
	}
	return out
}

// call is what the plugins are told. The namespace is left out if it is gone, as the specification wants it.
func (r *record) call() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(r.Conf)
	if err != nil {
		return nil, nil, err
	}
	rt := &libcni.RuntimeConf{ContainerID: r.ID, NetNS: r.NetNS, IfName: interfaceName, Args: r.Args, CapabilityArgs: r.Capabilities}
	var st unix.Statfs_t
	if unix.Statfs(r.NetNS, &st) != nil || st.Type != unix.NSFS_MAGIC {
		rt.NetNS = ""
	}
	return list, rt, nil
}

// recall reads the records of earlier processes. What was never written whole has no plugin's work behind it.
func recall(dir string, log *slog.Logger) (map[string]*record, error) {
	out := map[string]*record{}
	err := records.Recall(dir, func(id, file string, data []byte) bool {
		var r record
		if err := json.Unmarshal(data, &r); err != nil || r.ID != id {
			log.Warn("cni: forgetting a sandbox whose state can't be read", "file", file, "err", err)
			return false
		}
		out[id] = &r
		return true
	})
	return out, err
}
