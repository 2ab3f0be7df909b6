package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	// debianPlugins is where the package containernetworking-plugins has them.
	debianPlugins = "/usr/lib/cni"
	cniNode       = "10.7.9.1"
	cniBridge     = "cni0"
)

// cniConf is a network of Debian's plugins: a bridge with the addresses that the cluster gave to the node, host ports, and limits of rates.
const cniConf = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "` + cniBridge + `", "isGateway": true, "ipMasq": true, "hairpinMode": true, "capabilities": {"ipRanges": true},
   "ipam": {"type": "host-local", "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
  {"type": "bandwidth", "capabilities": {"bandwidth": true}}
]}`

// cniInstaller is how networks come to clusters: a DaemonSet on the host's network, which waits for no other, writes the configuration.
const cniInstaller = `
apiVersion: v1
kind: ConfigMap
metadata: {name: network}
data: {conflist: %q}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: network}
spec:
  selector: {matchLabels: {app: network}}
  template:
    metadata: {labels: {app: network}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      initContainers:
      - name: install
        image: busybox:1
        command: [sh, -c, cp /conf/conflist /net.d/10-pods.conflist]
        volumeMounts: [{name: conf, mountPath: /conf}, {name: net-d, mountPath: /net.d}]
      containers:
      - {name: c, image: "busybox:1", command: [sleep, "100000"]}
      volumes:
      - {name: conf, configMap: {name: network}}
      - {name: net-d, hostPath: {path: %s}}
`

const cniPods = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {name: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {name: web}
  annotations: {kubernetes.io/ingress-bandwidth: 100M, kubernetes.io/egress-bandwidth: 100M}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, mkdir /www; hostname >/www/index.html; exec httpd -f -p 8080 -h /www]
    ports: [{containerPort: 8080, hostPort: 8181}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "busybox:1", command: [sleep, "100000"]}]
`

// TestCNI: plugins take the place of the built-in network, when and as a pod brings them.
func TestCNI(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(debianPlugins); err != nil {
		t.Fatalf("%v: scripts/deps.sh installs Debian's containernetworking-plugins", err)
	}
	segment, err := machine.NewSegment()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = segment.Close() })
	dir := t.TempDir() // goes after the machine, which looks at it to the end
	m := machine.ForTest(t)
	t.Cleanup(func() {
		// The plugins leave their bridge and the frame of their rules to the next pod.
		if err := m.NS.Do(cniFrame); err != nil {
			t.Error(err)
		}
	})
	if err := segment.Plug(m.NS, machine.Interface, netip.MustParsePrefix(cniNode+"/24")); err != nil {
		t.Fatal(err)
	}
	conf, addresses, broken := filepath.Join(dir, "net.d"), filepath.Join(dir, "addresses"), filepath.Join(dir, "bin")
	flags := []string{"--disable", "pod-network", "--cni-conf-dir", conf, "--cni-bin-dir", broken + "," + debianPlugins}
	if err := m.BeginServer("pods wait for a CNI plugin: cni plugin not initialized", flags...); err != nil {
		t.Fatal(err)
	}
	if err := furnish(m); err != nil {
		t.Fatal(err)
	}
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, m: m, command: []string{bin, "kubectl"}, ns: "default"}

	const ready = "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].%s}"
	u.says("False", "get", "nodes", "-o", fmt.Sprintf(ready, "status"))
	u.says("KubeletNotReady", "get", "nodes", "-o", fmt.Sprintf(ready, "reason"))
	u.says("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
		"get", "nodes", "-o", fmt.Sprintf(ready, "message"))
	node := strings.TrimSpace(u.kubectl("get", "nodes", "-o", "name"))
	// A pod that is there already waits, and is told why.
	u.apply(strings.Replace(podManifest("early", "sleep 100000"), "spec:", "spec:\n  nodeName: "+strings.TrimPrefix(node, "node/"), 1))
	u.shows([]string{"events"}, `.* Warning NetworkNotReady Pod/early network is not ready: container runtime network not ready: .*cni plugin not initialized`)

	u.apply(fmt.Sprintf(cniInstaller, fmt.Sprintf(cniConf, addresses), conf))
	u.await(node, "condition=Ready")
	u.await("pod/early", "condition=Ready")
	u.apply(cniPods)
	u.await("pod/web", "condition=Ready")
	u.await("pod/client", "condition=Ready")

	ip := func(pod string) string { return u.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}") }
	pods := map[string]string{"early": ip("early"), "web": ip("web"), "client": ip("client")}
	subnet := netip.MustParsePrefix(u.kubectl("get", node, "-o", "jsonpath={.spec.podCIDR}"))
	for pod, a := range pods {
		if addr, err := netip.ParseAddr(a); err != nil || !subnet.Contains(addr) {
			t.Errorf("pod %s has %q, which is not in %v", pod, a, subnet)
		}
	}
	works := func() {
		t.Helper()
		cluster := u.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		for _, c := range []struct{ from, url string }{
			{"client", "http://" + pods["web"] + ":8080"}, {"client", "http://" + cluster}, {"client", "http://web.default.svc.cluster.local"},
			{"client", "http://" + cniNode + ":8181"}, {"web", "http://" + cluster}, // itself
		} {
			u.says("web", "exec", c.from, "--", "wget", "-q", "-O", "-", c.url)
		}
		for _, address := range []string{cniNode + ":8181", cluster + ":80", pods["web"] + ":8080"} {
			machine.Wait(t, "the machine reaches "+address, func(ctx context.Context) error { return fetch(ctx, m, address, "web") })
		}
	}
	works()
	if n := cniCount(t, m, isPod); n != 3 {
		t.Errorf("%d interfaces of pods", n)
	}
	if n := cniCount(t, m, func(l netlink.Link) bool { return l.Type() == "ifb" }); n != 1 {
		t.Errorf("%d interfaces of limits", n)
	}

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := m.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(flags...); err != nil {
			t.Fatal(err)
		}
		for pod, a := range pods {
			u.await("pod/"+pod, "condition=Ready")
			if got := ip(pod); got != a {
				t.Errorf("after %v, pod %s has %s, not %s", sig, pod, got, a)
			}
		}
		if restarts := u.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); strings.Trim(restarts, "0 ") != "" {
			t.Errorf("after %v, restarts: %s", sig, restarts)
		}
		works()
	}

	// A plugin that fails: its words are an event. What others made before is taken down by those.
	script := "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{\"cniVersion\": \"1.0.0\", \"code\": 11, \"msg\": \"the moon is too low\"}'\nexit 1\n"
	writeWhole(t, filepath.Join(broken, "moon"), script)
	writeWhole(t, filepath.Join(conf, "00-moon.conflist"), strings.Replace(fmt.Sprintf(cniConf, addresses), `{"type": "portmap"`, `{"type": "moon"}, {"type": "portmap"`, 1))
	u.apply(podManifest("unlucky", "sleep 100000"))
	u.shows([]string{"events"}, `.* Warning FailedCreatePodSandBox Pod/unlucky Failed to create pod sandbox: .*failed to setup network for sandbox ".*": plugin type="moon" failed \(add\): the moon is too low.*`)
	if err := os.Remove(filepath.Join(conf, "00-moon.conflist")); err != nil {
		t.Fatal(err)
	}
	u.await("pod/unlucky", "condition=Ready")

	// The plugins take down what they made, and nothing but the bridge and the frame of the rules is left.
	u.kubectl("delete", "pod", "web", "client", "early", "unlucky", "--timeout="+patience.String())
	machine.Wait(t, "addresses are given back", func(context.Context) error {
		left, err := filepath.Glob(filepath.Join(addresses, "pods", "10.*"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
	machine.Wait(t, "interfaces are gone", func(context.Context) error {
		if n := cniCount(t, m, func(l netlink.Link) bool {
			return isPod(l) || l.Type() == "ifb"
		}); n != 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	if left, err := filepath.Glob(filepath.Join(m.DataDir, "cni/sandboxes", "*.json")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(m.DataDir, "cni/sandboxes/cache/results", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	rules, err := iptablesRules(m)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(rules) {
		if strings.Contains(line, subnet.Addr().String()) || strings.Contains(line, "CNI-DN-") {
			t.Errorf("rule left: %s", line)
		}
	}

	// A reset with a pod that runs has the plugins take it down.
	u.apply(cniPods)
	u.await("pod/web", "condition=Ready")
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Celox("reset", "--yes", "--data-dir", m.DataDir); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(addresses, "pods", "10.*")); err != nil || len(left) > 0 {
		t.Errorf("after a reset: left: %v %v", left, err)
	}
}

// fetch gets a page, in which a word has to be.
func fetch(ctx context.Context, m *machine.Machine, address, word string) error {
	conn, err := m.NS.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	body, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(body), word) {
		err = fmt.Errorf("the answer is %q", body)
	}
	return err
}

// isPod says whether an interface is what Debian's bridge plugin makes for a pod.
func isPod(l netlink.Link) bool {
	return l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, "veth")
}

// cniCount counts a machine's interfaces.
func cniCount(t *testing.T, m *machine.Machine, is func(netlink.Link) bool) (n int) {
	t.Helper()
	err := m.NS.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if is(l) {
				n++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func iptablesRules(m *machine.Machine) (string, error) {
	return m.Run(nil, "iptables-save")
}

// cniFrame removes what Debian's plugins never do.
func cniFrame() error {
	if l, err := netlink.LinkByName(cniBridge); err == nil {
		if err := netlink.LinkDel(l); err != nil {
			return err
		}
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Name == "nat" || t.Name == "filter" || t.Name == "mangle" || t.Name == "raw" {
			c.DelTable(t)
		}
	}
	return c.Flush()
}

// writeWhole writes a program or a configuration that somebody may look at at any time.
func writeWhole(t *testing.T, path, text string) {
	t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".new", []byte(text), 0o755))
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}
