package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
)

// fleet is a cluster of three machines. The server's and the first agent's are on one segment, the second agent's is behind a router.
type fleet struct {
	t        *testing.T
	machines []*machine.Machine
	segments []*machine.Segment
	router   *machine.NetNS
	client   kubernetes.Interface
	token    string
}

// celoxRoutes is the protocol number of the routes between nodes.
const celoxRoutes = 0xce

const stageServer = "https://10.7.1.1:6443"

// newFleet makes the machines and their cables. Nothing runs yet.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	s := &fleet{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range 2 {
		segment, err := machine.NewSegment()
		must(err)
		s.segments = append(s.segments, segment)
		t.Cleanup(func() { _ = segment.Close() })
	}
	s.router, err = machine.Router()
	must(err)
	t.Cleanup(func() { _ = s.router.Close() })
	for i, segment := range s.segments {
		must(segment.Plug(s.router, fmt.Sprintf("lan%d", i), netip.MustParsePrefix(fmt.Sprintf("10.7.%d.254/24", i+1))))
	}
	for i, at := range []struct {
		segment int
		address string
	}{{0, "10.7.1.1/24"}, {0, "10.7.1.2/24"}, {1, "10.7.2.3/24"}} {
		m, err := machine.New(fmt.Sprintf("stage-%d", i))
		must(err)
		s.machines = append(s.machines, m)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("machine %d said:\n%s", i, m.Output())
			}
			if err := m.Remove(); err != nil {
				t.Error(err)
			}
		})
		address := netip.MustParsePrefix(at.address)
		must(s.segments[at.segment].Plug(m.NS, machine.Interface, address))
		must(machine.Gateway(m.NS, netip.MustParseAddr(fmt.Sprintf("10.7.%d.254", at.segment+1))))
	}
	return s
}

// TestThreeMachines is the life of a cluster of several machines. What the steps do to it they do one after another; between them they look in parallel.
func TestThreeMachines(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	if err := s.machines[0].Start(stageArguments()...); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"who may not join is told why", s.refusals},
		{"two machines join", s.join},
		{"pods of all nodes reach each other", s.pods},
		{"services and names on every node", s.services},
		{"services more closely", s.proxying},
		{"addresses from nodes for load balancers", s.balancers},
		{"names that others know, and new ones", s.names},
		{"policies on every node", s.policies},
		{"policies about names", s.domains},
		{"a site for the outside, by every node", s.ingresses},
		{"logs and commands on other nodes", s.streams},
		{"nodes behind a firewall", s.edge},
		{"datagrams and ports of nodes", s.datagrams},
		{"routes that somebody removes come back", s.repair},
		{"without the server pods go on", s.withoutServer},
		{"a node is drained as budgets allow", s.drains},
		{"a node that goes gives its addresses back", s.leave},
	} {
		if !t.Run(step.name, step.run) {
			return // the rest builds on it
		}
	}
}

// refusals tries what must not work, on a machine that joins later.
func (s *fleet) refusals(t *testing.T) {
	out, err := s.machines[0].Celox("token", "create", "--ttl", "1h", "--description", "stage")
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(out)
	parts := strings.Split(s.token, ".")
	if len(parts) != 3 {
		t.Fatalf("the token is %q", s.token)
	}
	secret, err := s.client.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-"+parts[0], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range secret.Data {
		if strings.Contains(string(value), parts[1]) {
			t.Errorf("the cluster keeps the token's secret as %s", key)
		}
	}
	other := strings.Repeat("0", len(parts[2]))
	for _, c := range []struct{ what, server, token, want string }{
		{"another cluster", stageServer, parts[0] + "." + parts[1] + "." + other, "the hash of its authority is another"},
		{"a wrong secret", stageServer, parts[0] + ".0123456789abcdef." + parts[2], "the token is not good (any more)"},
		{"half a token", stageServer, parts[0] + "." + parts[1], "does not say which cluster it is for"},
		{"no token", stageServer, "", "has not joined a cluster yet"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/data"
			if _, err := s.machines[2].Celox("agent", "--data-dir", dir, "--server", c.server, "--token", c.token); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
			if _, err := s.machines[2].Celox("reset", "--yes", "--data-dir", dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s *fleet) join(t *testing.T) {
	for i, m := range s.machines {
		t.Run(fmt.Sprintf("machine %d", i), func(t *testing.T) {
			t.Parallel()
			if i > 0 {
				if err := m.StartAgent("--server", stageServer, "--token", s.token); err != nil {
					t.Fatal(err)
				}
			}
			giveBusybox(t, m)
		})
	}
}

// nodes are the nodes by their names, all of them Ready.
func (s *fleet) nodes(ctx context.Context, want int) (map[string]*corev1.Node, error) {
	l, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := map[string]*corev1.Node{}
	for i := range l.Items {
		n := &l.Items[i]
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return nil, fmt.Errorf("node %s is not Ready", n.Name)
		}
		out[n.Name] = n
	}
	if len(out) != want {
		return nil, fmt.Errorf("%d nodes, want %d", len(out), want)
	}
	return out, nil
}

// everywhere is a pod on each node that answers on port 8080 with the address that asks.
const everywhere = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: everywhere, namespace: default}
spec:
  replicas: 6
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: everywhere}}}
      tolerations: [{operator: Exists, effect: NoExecute}]
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www/cgi-bin; printf "#!/bin/sh\necho; echo \$REMOTE_ADDR\n" > /www/cgi-bin/who; chmod +x /www/cgi-bin/who; echo begun; trap "kill \$!; exit 0" TERM; httpd -f -p 0.0.0.0:8080 -h /www & wait']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

// running are the pods of the deployment, all Ready, by the nodes that they are on.
func (s *fleet) running(ctx context.Context, want int) (map[string][]corev1.Pod, error) {
	l, err := s.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=everywhere"})
	if err != nil {
		return nil, err
	}
	out := map[string][]corev1.Pod{}
	n := 0
	for _, p := range l.Items {
		if p.DeletionTimestamp != nil {
			continue
		}
		if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }) {
			return nil, fmt.Errorf("pod %s on node %q is not Ready: %s", p.Name, p.Spec.NodeName, p.Status.Phase)
		}
		out[p.Spec.NodeName] = append(out[p.Spec.NodeName], p)
		n++
	}
	if n != want {
		return nil, fmt.Errorf("%d pods, want %d", n, want)
	}
	return out, nil
}

func (s *fleet) pods(t *testing.T) {
	nodes, err := s.nodes(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for name, n := range nodes {
		if n.Spec.PodCIDR == "" || seen[n.Spec.PodCIDR] != "" {
			t.Errorf("nodes %s and %q both have the addresses %q", name, seen[n.Spec.PodCIDR], n.Spec.PodCIDR)
		}
		seen[n.Spec.PodCIDR] = name
	}
	if _, err := s.machines[0].Kubectl(strings.NewReader(everywhere), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	s.reachable(t, 6, 3)
	for i, wants := range [][]string{{"by 10.7.1.2", "by VXLAN"}, {"by 10.7.1.1", "by VXLAN"}, {"by VXLAN"}} {
		machine.Wait(t, fmt.Sprintf("machine %d to say how it goes to the others", i), func(context.Context) error {
			for _, want := range wants {
				if !strings.Contains(s.machines[i].Output(), want) {
					return fmt.Errorf("it does not say %q", want)
				}
			}
			return nil
		})
	}
}

// reachable waits until all pods are there on so many nodes and each of them reaches each other, under its own address.
func (s *fleet) reachable(t *testing.T, pods, nodes int) {
	t.Helper()
	var on map[string][]corev1.Pod
	machine.Wait(t, "the pods of all nodes", func(ctx context.Context) error {
		var err error
		if on, err = s.running(ctx, pods); err == nil && len(on) != nodes {
			err = fmt.Errorf("pods on %d nodes", len(on))
		}
		return err
	})
	var all []corev1.Pod
	for _, list := range on {
		all = append(all, list...)
	}
	for _, from := range all {
		var script strings.Builder
		for _, to := range all {
			if to.Name != from.Name {
				// Not wget, which in a static glibc busybox does not survive its own look at the resolver.
				fmt.Fprintf(&script, "printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s 8080 | tail -n 1 || exit 1\n", to.Status.PodIP)
			}
		}
		machine.Wait(t, fmt.Sprintf("pod %s on %s to reach the others", from.Name, from.Spec.NodeName), func(context.Context) error {
			out, err := s.machines[0].Kubectl(nil, "exec", from.Name, "--", "sh", "-c", script.String())
			if err != nil {
				return err
			}
			for _, who := range strings.Fields(out) {
				if who != from.Status.PodIP {
					return fmt.Errorf("the others see %s, and its address is %s", who, from.Status.PodIP)
				}
			}
			if n := len(strings.Fields(out)); n != len(all)-1 {
				return fmt.Errorf("%d answers", n)
			}
			return nil
		})
	}
}

// services asks on each machine, which is what a pod with the host's network does, and in a pod of each node.
func (s *fleet) services(t *testing.T) {
	ctx := t.Context()
	if _, err := s.machines[0].Kubectl(nil, "expose", "deployment", "everywhere", "--port", "80", "--target-port", "8080"); err != nil {
		t.Fatal(err)
	}
	svc, err := s.client.CoreV1().Services("default").Get(ctx, "everywhere", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	on, err := s.running(ctx, 6)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range s.machines {
		t.Run(fmt.Sprintf("machine %d", i), func(t *testing.T) {
			t.Parallel()
			for _, server := range []string{"169.254.20.10:53", "10.43.0.10:53"} {
				names := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) { return m.NS.Dial(ctx, network, server) }}
				machine.Wait(t, "the name of the service at "+server, func(ctx context.Context) error {
					ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
					defer cancel()
					got, err := names.LookupHost(ctx, "everywhere.default.svc.cluster.local.")
					if err == nil && !slices.Equal(got, []string{svc.Spec.ClusterIP}) {
						err = fmt.Errorf("got %v, want %s", got, svc.Spec.ClusterIP)
					}
					return err
				})
			}
			machine.Wait(t, "the service", func(context.Context) error {
				resp, err := m.HTTP().Get("http://" + svc.Spec.ClusterIP + "/cgi-bin/who")
				if err == nil {
					err = resp.Body.Close()
				}
				return err
			})
			// Each connection goes to one of six pods on three nodes: twenty of them go to other nodes, too.
			from := on[fmt.Sprintf("stage-%d", i)][0]
			script := fmt.Sprintf("for i in $(seq 20); do printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s 80 | tail -n 1 || exit 1; done", svc.Spec.ClusterIP)
			machine.Wait(t, "the service in a pod", func(context.Context) error {
				out, err := s.machines[0].Kubectl(nil, "exec", from.Name, "--", "sh", "-c", script)
				if err == nil && len(strings.Fields(out)) != 20 {
					err = fmt.Errorf("answers: %q", out)
				}
				return err
			})
		})
	}
}

func (s *fleet) streams(t *testing.T) {
	on, err := s.running(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	for node, pods := range on {
		t.Run(node, func(t *testing.T) {
			t.Parallel()
			name := pods[0].Name
			if out, err := s.machines[0].Kubectl(nil, "logs", name); err != nil || out != "begun\n" {
				t.Errorf("logs: %q, %v", out, err)
			}
			if out, err := s.machines[0].Kubectl(nil, "exec", name, "--", "hostname"); err != nil || strings.TrimSpace(out) != name {
				t.Errorf("exec: %q, %v", out, err)
			}
			if out, err := s.machines[0].Kubectl(nil, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/healthz"); err != nil || out != "ok" {
				t.Errorf("proxy: %q, %v", out, err)
			}
		})
	}
}

// repair removes what leads to other nodes.
func (s *fleet) repair(t *testing.T) {
	removed, err := s.machines[0].NS.RemoveRoutes(celoxRoutes, "celox-vxlan")
	if err != nil {
		t.Fatal(err)
	}
	if removed != 2 {
		t.Errorf("there were %d routes to two other nodes", removed)
	}
	s.reachable(t, 6, 3)
}

func (s *fleet) withoutServer(t *testing.T) {
	on, err := s.running(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.machines[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	far := on["stage-2"][0].Status.PodIP
	fetch := func() error {
		resp, err := s.machines[1].HTTP().Get("http://" + far + ":8080/cgi-bin/who")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	machine.Wait(t, "a pod, without the server", func(context.Context) error { return fetch() })
	s.stillKnown(t, s.machines[1], s.machines[2])
	machine.Wait(t, "the agent to notice", func(context.Context) error {
		if !strings.Contains(s.machines[1].Output(), "pods and services go on as they are") {
			return errors.New("it says nothing")
		}
		return nil
	})
	// An agent that starts again without a token and without its server takes up where it was.
	if err := s.machines[1].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.machines[1].Begin("node stage-1 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a pod, without the server and with a new agent", func(context.Context) error { return fetch() })
	s.stillKnown(t, s.machines[1])
	if err := s.machines[0].Start(stageArguments()...); err != nil {
		t.Fatal(err)
	}
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	// New pods on every node show that all are there again.
	if _, err := s.machines[0].Kubectl(nil, "rollout", "restart", "deployment/everywhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machines[0].Kubectl(nil, "rollout", "status", "deployment/everywhere", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
	s.reachable(t, 6, 3)
}

func (s *fleet) leave(t *testing.T) {
	var nodes map[string]*corev1.Node
	machine.Wait(t, "all nodes", func(ctx context.Context) (err error) {
		nodes, err = s.nodes(ctx, 3)
		return err
	})
	gone := nodes["stage-1"].Spec.PodCIDR
	if out, err := s.machines[0].Celox("node", "drain", "stage-1"); err != nil || !strings.Contains(out, "node stage-1 is drained") {
		t.Fatalf("%s, %v", out, err)
	}
	if err := s.machines[1].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := s.machines[0].Celox("node", "remove", "stage-1"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the way to the node to go", func(context.Context) error {
		routes, err := s.machines[2].NS.Routes(celoxRoutes)
		if err != nil {
			return err
		}
		if len(routes) != 1 || slices.Contains(routes, gone) {
			return fmt.Errorf("there are ways to %v, and the node had %s", routes, gone)
		}
		return nil
	})
	s.reachable(t, 6, 2)
}
