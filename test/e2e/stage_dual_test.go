package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// answering is a pod on each node that answers on port 8080 over both families with the address that asks.
const answering = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere, namespace: default}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www/cgi-bin; printf "#!/bin/sh\necho; echo \$REMOTE_ADDR\n" > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; httpd -p [::]:8080 -h /www; trap "exit 0" TERM; while :; do sleep 1 & wait; done']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: everywhere, namespace: default}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: everywhere}
  ports: [{port: 80, targetPort: 8080}]
`

// ask is a line of a script: who answers at an address says which address it sees. (Not wget, see reachable.)
func ask(address string, port int) string {
	return fmt.Sprintf("printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s %d | tail -n 1 | sed 's/^\\[//; s/\\]$//; s/^::ffff://' || exit 1\n", address, port)
}

// everyFamily waits until the pods of all machines reach each other by all their addresses, under their own, and the service by all of its.
func (s *fleet) everyFamily(t *testing.T, families int) {
	t.Helper()
	var pods []corev1.Pod
	machine.Wait(t, "a pod on every node", func(ctx context.Context) error {
		on, err := s.running(ctx, len(s.machines))
		if err != nil {
			return err
		}
		pods = nil
		for _, list := range on {
			pods = append(pods, list...)
		}
		for _, p := range pods {
			if len(p.Status.PodIPs) != families {
				return fmt.Errorf("pod %s has the addresses %v", p.Name, p.Status.PodIPs)
			}
		}
		return nil
	})
	var svc *corev1.Service
	machine.Wait(t, "the service", func(ctx context.Context) (err error) {
		if svc, err = s.client.CoreV1().Services("default").Get(ctx, "everywhere", metav1.GetOptions{}); err == nil && len(svc.Spec.ClusterIPs) != families {
			err = fmt.Errorf("it has the addresses %v", svc.Spec.ClusterIPs)
		}
		return err
	})
	for _, from := range pods {
		t.Run(from.Spec.NodeName, func(t *testing.T) {
			t.Parallel()
			var script strings.Builder
			var want []string
			for _, to := range pods {
				for i, ip := range to.Status.PodIPs {
					if to.Name != from.Name {
						script.WriteString(ask(ip.IP, 8080))
						want = append(want, from.Status.PodIPs[i].IP)
					}
				}
			}
			for _, ip := range svc.Spec.ClusterIPs {
				script.WriteString(ask(ip, 80))
				want = append(want, "")
			}
			machine.Wait(t, "the pod of "+from.Spec.NodeName+" to reach the others", func(context.Context) error {
				out, err := s.machines[0].Kubectl(nil, "exec", from.Name, "--", "sh", "-c", script.String())
				if err != nil {
					return err
				}
				got := strings.Fields(out)
				if !slices.EqualFunc(got, want, func(g, w string) bool { return w == "" || g == w }) {
					return fmt.Errorf("the others see %v, want %v", got, want)
				}
				return nil
			})
		})
	}
}

// internal are the addresses of a node.
func internal(n *corev1.Node) []string {
	var out []string
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out = append(out, a.Address)
		}
	}
	return out
}

// TestBothFamilies is a cluster of three machines with IPv4 and IPv6: neighbours, and one behind a router.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	s.addSix(t)
	s.up(t, "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112", stageServer, "https://[fd07:0:0:1::1]:6443")
	for i, addrs := range [][]string{{"10.7.1.1", "fd07:0:0:1::1"}, {"10.7.1.2", "fd07:0:0:1::2"}, {"10.7.2.3", "fd07:0:0:2::3"}} {
		machine.Wait(t, "the node to have both addresses", func(ctx context.Context) error {
			n, err := s.client.CoreV1().Nodes().Get(ctx, fmt.Sprintf("stage-%d", i), metav1.GetOptions{})
			if err == nil && (!slices.Equal(internal(n), addrs) || len(n.Spec.PodCIDRs) != 2) {
				err = fmt.Errorf("it has %v and, for pods, %v; want %v", internal(n), n.Spec.PodCIDRs, addrs)
			}
			return err
		})
	}
	t.Run("pods and services", func(t *testing.T) { s.everyFamily(t, 2) })
	t.Run("names", s.namesOfBoth)
}

// TestOnlySix is a cluster of three machines that have no IPv4.
func TestOnlySix(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	s.addSix(t)
	for i, a := range []string{"10.7.1.1/24", "10.7.1.2/24", "10.7.2.3/24"} {
		if err := s.machines[i].NS.RemoveAddress(machine.Interface, netip.MustParsePrefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	s.up(t, "fd42::/56", "fd43::/112", "https://[fd07:0:0:1::1]:6443", "[fd07:0:0:1::1]:6443")
	t.Run("pods and services", func(t *testing.T) { s.everyFamily(t, 1) })
	t.Run("names", func(t *testing.T) {
		machine.Wait(t, "a pod to look the service up", func(ctx context.Context) error {
			on, err := s.running(ctx, 3)
			if err != nil {
				return err
			}
			_, err = s.machines[0].Kubectl(nil, "exec", on["stage-2"][0].Name, "--", "nslookup", "everywhere.default.svc.cluster.local")
			return err
		})
	})
}

// addSix gives machines and router addresses of IPv6 as well.
func (s *fleet) addSix(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range s.segments {
		must(s.router.Address(fmt.Sprintf("lan%d", i), netip.MustParsePrefix(fmt.Sprintf("fd07:0:0:%d::fe/64", i+1))))
	}
	for i, segment := range []int{1, 1, 2} {
		must(s.machines[i].NS.Address(machine.Interface, netip.MustParsePrefix(fmt.Sprintf("fd07:0:0:%d::%d/64", segment, i+1))))
		must(machine.Gateway(s.machines[i].NS, netip.MustParseAddr(fmt.Sprintf("fd07:0:0:%d::fe", segment))))
	}
}

// up starts the cluster with ranges of pods and services; the agents reach the server by its addresses in turn.
func (s *fleet) up(t *testing.T, pods, services string, servers ...string) {
	t.Helper()
	if err := s.machines[0].Start("--cluster-cidr", pods, "--service-cidr", services); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	out, err := s.machines[0].Celox("token", "create")
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(out)
	t.Run("join", func(t *testing.T) {
		for i, m := range s.machines {
			t.Run(fmt.Sprintf("machine %d", i), func(t *testing.T) {
				t.Parallel()
				giveBusybox(t, m)
				if i > 0 {
					if err := m.StartAgent("--server", servers[i%len(servers)], "--token", s.token); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	if _, err := s.machines[0].Kubectl(strings.NewReader(answering), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}
