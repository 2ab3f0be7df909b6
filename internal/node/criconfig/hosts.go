package criconfig

import (
	"bytes"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxHostname is the kernel's limit of a host name.
const maxHostname = 63

// Names are what a pod is called in its own network.
type Names struct {
	Hostname string
	Domain   string // "<subdomain>.<namespace>.svc.<cluster domain>", or ""
}

// FQDN is the full name, "" without a domain.
func (n Names) FQDN() string {
	if n.Domain == "" {
		return ""
	}
	return n.Hostname + "." + n.Domain
}

// NamesOf computes the pod's names. nodeName is the host name of pods in the host's network.
func NamesOf(pod *corev1.Pod, clusterDomain, nodeName string) Names {
	if pod.Spec.HostnameOverride != nil && *pod.Spec.HostnameOverride != "" {
		return Names{Hostname: *pod.Spec.HostnameOverride}
	}
	n := Names{Hostname: pod.Name}
	if pod.Spec.HostNetwork {
		n.Hostname = nodeName
	} else if pod.Spec.Hostname != "" {
		n.Hostname = pod.Spec.Hostname
	}
	if len(n.Hostname) > maxHostname {
		n.Hostname = strings.TrimRight(n.Hostname[:maxHostname], "-.")
	}
	if pod.Spec.Subdomain != "" {
		n.Domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return n
}

// SandboxHostname is the host name that the kernel shows in the pod.
func SandboxHostname(pod *corev1.Pod, n Names) (string, error) {
	if pod.Spec.HostNetwork && pod.Spec.HostnameOverride == nil {
		return "", nil
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && n.Domain != "" {
		f := n.FQDN()
		if len(f) > maxHostname+1 {
			return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", f, maxHostname+1, len(f))
		}
		return f, nil
	}
	return n.Hostname, nil
}

// HostsFile is the content of a pod's /etc/hosts. hostFile is the host's own for pods in the host's network, else nil.
func HostsFile(pod *corev1.Pod, ips []string, n Names, hostFile []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(hostFile)
		if len(hostFile) > 0 && !bytes.HasSuffix(hostFile, []byte("\n")) {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n")
		b.WriteString("127.0.0.1\tlocalhost\n")
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::0\tip6-localnet\n")
		b.WriteString("fe00::0\tip6-mcastprefix\n")
		b.WriteString("fe00::1\tip6-allnodes\n")
		b.WriteString("fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if f := n.FQDN(); f != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, f, n.Hostname)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, n.Hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}
