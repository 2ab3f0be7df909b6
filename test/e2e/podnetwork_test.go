package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/celox/celox/test/e2e/machine"
)

// TestPodNetwork: what the built-in network says and does when ranges overlap, addresses run out and rates are limited, and that nothing of it is left.
func TestPodNetwork(t *testing.T) {
	t.Parallel()
	segment, err := machine.NewSegment()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = segment.Close() })
	dir := t.TempDir() // goes after the machine, which looks at it to the end
	m := machine.ForTest(t)
	const first, second = "10.7.8.1", "10.7.8.2"
	if err := segment.Plug(m.NS, machine.Interface, netip.MustParsePrefix(first+"/24")); err != nil {
		t.Fatal(err)
	}
	err = m.NS.Do(func() error {
		l, err := netlink.LinkByName(machine.Interface)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(second + "/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
	if err != nil {
		t.Fatal(err)
	}

	// A range that the machine is in itself.
	if err := m.Start("--cluster-cidr", "10.7.0.0/16"); err == nil {
		t.Fatal("a range with the machine's own address is accepted")
	} else {
		has(t, err.Error(), "--cluster-cidr 10.7.0.0/16 has the address "+first+" of this machine's interface eth0 in it", "start the server with another --cluster-cidr")
	}
	flags := []string{"--cluster-cidr", "10.42.0.0/29"}
	if err := m.Start(flags...); err != nil {
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

	// One port on two addresses of the machine; limits.
	web := func(name, address, annotations string) string {
		manifest := podManifest(name, "mkdir /www; hostname >/www/index.html; exec httpd -f -p 8080 -h /www")
		manifest = strings.Replace(manifest, "metadata:", "metadata:\n  annotations: {"+annotations+"}", 1)
		return strings.Replace(manifest, "  - name: c", "  - ports: [{containerPort: 8080, hostPort: 8181, hostIP: "+address+"}]\n    name: c", 1)
	}
	u.apply(web("one", first, "kubernetes.io/ingress-bandwidth: 100M, kubernetes.io/egress-bandwidth: 100M"))
	u.apply(web("two", second, "kubernetes.io/ingress-bandwidth: 100M"))
	u.await("pod/one", "condition=Ready")
	u.await("pod/two", "condition=Ready")
	u.apply(web("three", "10.7.8.3", "kubernetes.io/egress-bandwidth: '999'"))
	u.shows([]string{"events"},
		`.* Warning FailedCreatePodSandBox Pod/three Failed to create pod sandbox: .*annotation kubernetes.io/egress-bandwidth: "999": resource is unreasonably small \(< 1kbit\).*`)
	u.kubectl("delete", "pod", "three", "--timeout="+patience.String())
	works := func() {
		t.Helper()
		for name, address := range map[string]string{"one": first, "two": second} {
			machine.Wait(t, "the machine reaches "+name, func(ctx context.Context) error { return fetch(ctx, m, address+":8181", name) })
		}
		if n := cniCount(t, m, func(l netlink.Link) bool { return l.Type() == "ifb" }); n != 1 {
			t.Errorf("%d devices of limits", n)
		}
	}
	works()
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(flags...); err != nil {
		t.Fatal(err)
	}
	works()

	// The range has room for five.
	for i := range 4 {
		u.apply(podManifest(fmt.Sprint("p", i), "sleep 100000"))
		if i < 3 {
			u.await(fmt.Sprint("pod/p", i), "condition=Ready")
		}
	}
	u.shows([]string{"events"}, `.* Warning FailedCreatePodSandBox Pod/p3 Failed to create pod sandbox: .*no free address in pod range 10.42.0.0/29: all 5 are in use`)
	u.kubectl("delete", "pod", "p0", "--timeout="+patience.String())
	u.await("pod/p3", "condition=Ready")

	u.kubectl("delete", "pod", "--all", "--timeout="+patience.String())
	machine.Wait(t, "interfaces are gone", func(context.Context) error {
		if n := cniCount(t, m, func(l netlink.Link) bool {
			return strings.HasPrefix(l.Attrs().Name, "cl") && !strings.HasPrefix(l.Attrs().Name, "celox")
		}); n != 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	if left, err := filepath.Glob(filepath.Join(m.DataDir, "network", "*.json")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}

	// Plugins take its place: a pod that runs is made anew, and nothing of the built-in network stays.
	u.apply(web("one", first, ""))
	u.await("pod/one", "condition=Ready")
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	writeWhole(t, filepath.Join(dir, "net.d", "10-pods.conflist"), fmt.Sprintf(cniConf, filepath.Join(dir, "addresses")))
	t.Cleanup(func() {
		if err := m.NS.Do(cniFrame); err != nil {
			t.Error(err)
		}
	})
	if err := m.Start(append(flags, "--disable", "pod-network", "--cni-conf-dir", filepath.Join(dir, "net.d"), "--cni-bin-dir", debianPlugins)...); err != nil {
		t.Fatal(err)
	}
	u.says("1", "get", "pod", "one", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
	u.await("pod/one", "condition=Ready")
	machine.Wait(t, "the machine reaches the pod", func(ctx context.Context) error { return fetch(ctx, m, first+":8181", "one") })
	if n := cniCount(t, m, isPod); n != 1 {
		t.Errorf("%d interfaces of pods by the plugin", n)
	}
	if n := cniCount(t, m, func(l netlink.Link) bool {
		return l.Attrs().Name == "celox0" || strings.HasPrefix(l.Attrs().Name, "clx")
	}); n != 0 {
		t.Errorf("%d interfaces of the built-in network are left", n)
	}
	u.kubectl("delete", "pod", "one", "--timeout="+patience.String())
}
