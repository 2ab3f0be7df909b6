package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// TestWrongValues: a value that cannot work is refused with the key in the first place, and what is right is taken.
func TestWrongValues(t *testing.T) {
	dir := t.TempDir()
	junk, credentials := filepath.Join(dir, "junk"), filepath.Join(dir, "credentials.yaml")
	for path, text := range map[string]string{junk: "junk", credentials: `{apiVersion: kubelet.config.k8s.io/v1, kind: CredentialProviderConfig, providers: [
		{name: plugin, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [registry.example], defaultCacheDuration: 1m}]}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plugin"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	const etcd = "--etcd-servers=https://127.0.0.1:2379"
	for _, tt := range []struct{ args, want string }{ // arguments with spaces between them; no complaint if want is empty
		{"--bind-address=224.0.0.1", "--bind-address: 224.0.0.1 is a multicast address"},
		{"--bind-address=fe80::1%lo", `--bind-address: "fe80::1%lo" has a zone`},
		{"--bind-address=169.254.1.1", "--bind-address: 169.254.1.1 is link-local"},
		{"--bind-address=169.254.1.1 --advertise-address=192.0.2.1", ""},
		{"--bind-address=127.0.0.1", ""},
		{"--advertise-address=x", `--advertise-address: "x" is no IP address`},
		{"--advertise-address=0.0.0.0", "--advertise-address: 0.0.0.0 is no address at which"},
		{"--advertise-address=127.0.0.1", "--advertise-address: 127.0.0.1 is no address at which"},
		{"--advertise-address=10.43.7.7", "--advertise-address: 10.43.7.7 is in 10.43.0.0/16 of --service-cidr"},
		{"--node-ip=10.42.7.7", "--node-ip: 10.42.7.7 is in 10.42.0.0/16 of --cluster-cidr"},
		{"--node-ip=10.43.7.7", "--node-ip: 10.43.7.7 is in 10.43.0.0/16 of --service-cidr"},

		{"--https-port=10250", "--https-port: 10250 is that of --kubelet-port"},
		{"--https-port=10250 --disable-node", ""},
		{"--https-port=443", ""},
		{"--kubelet-port=10256", "--kubelet-port: 10256 is that at which load balancers ask"},
		{"--kubelet-port=10256 --disable=service-proxy", ""},
		{"--kubelet-port=10256 --proxy-mode=none", ""},
		{"--ingress-http-port=10250", "--ingress-http-port: 10250 is that of --kubelet-port"},
		{"--ingress-http-port=10250 --disable=ingress", ""},
		{"--wireguard-port=65536", "--wireguard-port: 65536 is no port"},

		{"--etcd-servers=http://127.0.0.1:99999", `--etcd-servers: "http://127.0.0.1:99999" is no URL`},
		{"--etcd-servers=http://127.0.0.1:2379/x", `--etcd-servers: "http://127.0.0.1:2379/x" is no URL`},
		{"--etcd-servers=http://etcd.example:2379/,https://[fd00::1]:2379", ""},
		{etcd + " --etcd-cafile=/none/x", "--etcd-cafile: open /none/x"},
		{etcd + " --etcd-cafile=" + junk, "--etcd-cafile: " + junk + " holds no certificate"},
		{etcd + " --etcd-certfile=/none/x --etcd-keyfile=/none/y", "--etcd-certfile: open /none/x"},
		{"--etcd-cafile=/none/x", "--etcd-cafile: give it together with --etcd-servers"},
		{"--etcd-quota-bytes=-1", "--etcd-quota-bytes: -1 bytes are too few"},
		{"--etcd-quota-bytes=8", "--etcd-quota-bytes: 8 bytes are too few"},
		{"--etcd-quota-bytes=0", ""},

		{"--write-kubeconfig=/none/x", "--write-kubeconfig: the directory /none does not exist"},
		{"--write-kubeconfig=" + dir, "--write-kubeconfig: " + dir + " is a directory"},
		{"--write-kubeconfig=" + junk + "/x", "--write-kubeconfig: " + junk + " is no directory"},
		{"--write-kubeconfig=" + dir + "/x", ""},
		{"--data-dir=/none/d --write-kubeconfig=/none/d/x", ""}, // it is going to be made
		{"--tls-san=a_b", `--tls-san: "a_b" is neither`},
		{"--tls-san=http://x", `--tls-san: "http://x" is neither`},
		{"--tls-san=10.0.0.1:6443", `--tls-san: "10.0.0.1:6443" is neither`},
		{"--tls-san=0.0.0.0", "--tls-san: 0.0.0.0 is no address"},
		{"--tls-san=API.example,*.example,10.0.0.1,fd00::1", ""},

		{"--cluster-cidr=127.0.0.0/8", "--cluster-cidr: 127.0.0.0/8 has addresses of 127.0.0.0/8 (loopback)"},
		{"--cluster-cidr=169.254.0.0/16", "--cluster-cidr: 169.254.0.0/16 has addresses of 169.254.0.0/16 (link-local)"},
		{"--cluster-cidr=0.0.0.0/8", "--cluster-cidr: 0.0.0.0/8 has addresses of 0.0.0.0/8 (this network)"},
		{"--cluster-cidr=240.0.0.0/16", ""},
		{"--cluster-cidr=fd42::/48", "--service-cidr: 10.43.0.0/16 is of another family than fd42::/48 of --cluster-cidr"},
		{"--cluster-cidr=10.42.0.0/16,fd42::/48", ""},
		{"--service-cidr=224.0.0.0/16", "--service-cidr: 224.0.0.0/16 has addresses of 224.0.0.0/4 (multicast)"},
		{"--service-cidr=10.43.0.0/31", "--service-cidr: 10.43.0.0/31 is too small"},
		{"--service-cidr=10.43.0.0/29", "--service-cidr: 10.43.0.0/29 is too small to have 10.43.0.10"},
		{"--service-cidr=10.43.0.0/29 --disable=dns", ""},
		{"--service-cidr=10.43.0.0/28", ""},
		{"--node-cidr-mask-size=-1", "--node-cidr-mask-size: -1 is not the length"},
		{"--node-cidr-mask-size-ipv4=0", "--node-cidr-mask-size-ipv4: 0 is not the length"},
		{"--node-cidr-mask-size-ipv4=31", "--node-cidr-mask-size-ipv4: 31 is not the length"},
		{"--node-cidr-mask-size-ipv6=200", "--node-cidr-mask-size-ipv6: 200 is not the length"},
		{"--cluster-cidr=10.0.0.0/8 --service-cidr=172.16.0.0/16 --node-cidr-mask-size-ipv4=30", "--node-cidr-mask-size-ipv4: networks of /30 cannot be cut out of 10.0.0.0/8: use 8 to 24"},
		{"--cluster-cidr=10.42.0.0/16 --node-cidr-mask-size=8", "--node-cidr-mask-size: networks of /8 cannot be cut out"},

		{"--registry-mirror=docker.io=ftp://x", `--registry-mirror: "ftp://x" is no mirror`},
		{"--registry-mirror=docker.io=https://", `--registry-mirror: "https://" is no mirror`},
		{"--registry-mirror=docker.io=::", `--registry-mirror: "::" is no mirror`},
		{"--registry-mirror=docker.io=mirror.example:5000/prefix,*=http://[fd00::1]:5000,x=10.0.0.1", ""},
		{"--insecure-registry=http://x", `--insecure-registry: "http://x" is no host`},
		{"--insecure-registry=x:0", `--insecure-registry: "x:0" is no host`},
		{"--insecure-registry=x:5000,10.0.0.1,my_registry", ""},
		{"--image-credential-provider-config=/none --image-credential-provider-bin-dir=" + dir, "--image-credential-provider-config: image credential providers: stat /none"},
		{"--image-credential-provider-config=" + junk + " --image-credential-provider-bin-dir=" + dir, "--image-credential-provider-config: image credential providers: " + junk},
		{"--image-credential-provider-config=" + credentials + " --image-credential-provider-bin-dir=/none", "--image-credential-provider-config: image credential providers: there is no program /none/plugin"},
		{"--image-credential-provider-config=" + credentials + " --image-credential-provider-bin-dir=/none --disable-node", ""},
		{"--image-credential-provider-config=" + credentials + " --image-credential-provider-bin-dir=" + dir, ""},

		{"--container-log-max-size=-5", `--container-log-max-size: "-5": use a size like 10Mi`},
		{"--container-log-max-size=10m", `--container-log-max-size: "10m": use a size like 10Mi`},
		{"--container-log-max-size=-1", ""},
		{"--plugin-registry=x", `--plugin-registry: "x" is no absolute path`},
		{"--device-plugin-dir=x", `--device-plugin-dir: "x" is no absolute path`},
		{"--pod-manifest-path=x", `--pod-manifest-path: "x" is no absolute path`},
		{"--manifest-url=boot.example/pods.yaml", `--manifest-url: "boot.example/pods.yaml" is no URL like`},
		{"--manifest-url=https://boot.example/pods.yaml --pod-manifest-path=/etc/kubernetes/manifests", ""},
		{"--cni-bin-dir= --disable=pod-network", "--cni-bin-dir: none is given"},
		{"--cni-bin-dir=", ""},
		{"--container-runtime-endpoint=tcp://1.2.3.4:5", `--container-runtime-endpoint: "tcp://1.2.3.4:5" is no socket`},
		{"--container-runtime-endpoint=x.sock", `--container-runtime-endpoint: "x.sock" is no socket`},
		{"--container-runtime-endpoint=/run/x.sock", ""},
		{"--container-runtime-endpoint=unix:///run/x.sock", ""},

		{"--admission-control-config-file=/none", "--admission-control-config-file: open /none"},
		{"--admission-control-config-file=" + junk, "--admission-control-config-file: reading " + junk},
		{"--audit-policy-file=/none --audit-log-path=-", "--audit-policy-file: audit policy: stat /none"},
		{"--audit-policy-file=" + junk + " --audit-log-path=-", "--audit-policy-file: audit policy " + junk},
		{"--audit-policy-file=" + junk + " --audit-log-path=" + dir, "--audit-log-path: " + dir + " is a directory"},
		{"--audit-policy-file=" + junk + " --audit-log-path=" + junk + "/x/y", "--audit-log-path: "},
		{"--controllers=jbo-controller", `--controllers: there is no "jbo-controller": did you mean "job-controller"?`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			s, _, err := flags(append(strings.Split(tt.args, " "), "--node-name=n")...)
			if err != nil {
				t.Fatal(err)
			}
			checkComplaint(t, s.Complete(), tt.want)
		})
	}
}

func checkComplaint(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Error("taken")
	case want != "" && !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.HasPrefix(line, want) }):
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestAllComplaintsAtOnce: a user who made several mistakes hears of all.
func TestAllComplaintsAtOnce(t *testing.T) {
	s, _, err := flags("--node-name=n", "--controllers=x-y-z", "--https-port=0", "--cluster-cidr=x", "--audit-policy-file=/none", "--audit-log-path=-", "--tls-san=a b")
	if err != nil {
		t.Fatal(err)
	}
	said := s.Complete()
	for _, key := range []string{"controllers", "https-port", "cluster-cidr", "audit-policy-file", "tls-san"} {
		checkComplaint(t, said, "--"+key+": ")
	}
}

func TestWrongValuesOfAnAgent(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--server=x y", "--server: "},
		{"--server=https://127.0.0.1:6443/x", "--server: "},
		{"--server=127.0.0.1:6443,https://[fd00::1]:6443", ""},
		{"--ca-hash=x", `--ca-hash: "x" is no hash of an authority`},
		{"--ca-hash=sha256:" + strings.Repeat("0", 64), ""},
		{"--bind-address=224.0.0.1", "--bind-address: 224.0.0.1 is a multicast address"},
		{"--kubelet-port=0", "--kubelet-port: 0 is no port"},
		{"--plugin-registry=x", "--plugin-registry: "},
		{"--token=abcdef", "--token: the token is not complete"},
		{"--token=abcdef.0123456789abcdef", "--token: the token does not say which cluster it is for"},
		{"--token=abcdef.0123456789abcdef|--ca-hash=" + strings.Repeat("0", 64), ""},
		{"--token=abcdef.0123456789abcdef." + strings.Repeat("0", 64), ""},
		{"--insecure-registry=http://x", `--insecure-registry: "http://x" is no host`},
		{"--token-file=/run/is-gone-after-a-boot", ""}, // a machine that has joined doesn't need it
	} {
		t.Run(tt.args, func(t *testing.T) {
			a, fs := &Agent{}, pflag.NewFlagSet("agent", pflag.ContinueOnError)
			a.Bind(fs)
			if err := fs.Parse(append(strings.Split(tt.args, "|"), "--node-name=n")); err != nil {
				t.Fatal(err)
			}
			checkComplaint(t, a.Complete(), tt.want)
		})
	}
}
