package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	// corpServer knows the names of corp.example; it is on the router.
	corpServer  = "10.7.1.254:5353"
	corpAddress = "192.0.2.55"
)

// stageArguments are those of the server of three machines.
func stageArguments() []string {
	return []string{"--service-cidr", "10.43.0.0/16", "--dns-stub-domain", "corp.example=" + corpServer}
}

// nodeDNS is where every node answers for names.
const nodeDNS = "169.254.20.10:53"

// lookup asks a name server from a machine.
func lookup(ctx context.Context, from *machine.NetNS, server, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, _, err := new(dns.Client).ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(name, qtype), &dns.Conn{Conn: c})
	return m, err
}

// known says whether a name has just one address, as seen from a machine.
func known(ctx context.Context, from *machine.NetNS, server, name, want string) error {
	m, err := lookup(ctx, from, server, name, dns.TypeA)
	if err != nil {
		return err
	}
	if len(m.Answer) == 1 {
		if a, ok := m.Answer[0].(*dns.A); ok && a.A.String() == want {
			return nil
		}
	}
	return fmt.Errorf("%s is %v (%s), want %s", name, m.Answer, dns.RcodeToString[m.Rcode], want)
}

// nameServer answers every question for an address, from within a namespace, until the test ends.
func nameServer(t *testing.T, in *machine.NetNS, where, address string) {
	t.Helper()
	var c net.PacketConn
	if err := in.Do(func() (err error) {
		c, err = net.ListenPacket("udp", where)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: c, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(address)}}
		}
		_ = w.WriteMsg(m) // who does not hear it asks again
	})}
	done := make(chan error, 1)
	go func() { done <- srv.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	})
}

// names asks every node about a domain that another name server knows, and about endpoints that come.
func (s *fleet) names(t *testing.T) {
	ctx := t.Context()
	nameServer(t, s.router, corpServer, corpAddress)
	if _, err := s.client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Written by hand in the old way: a controller makes the slices that names and services follow.
	if _, err := s.client.CoreV1().Endpoints("default").Create(ctx, &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.44", Hostname: "one"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 8080}}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, m := range s.machines {
		t.Run(fmt.Sprintf("machine %d", i), func(t *testing.T) {
			t.Parallel()
			machine.Wait(t, "a name of the other domain", func(ctx context.Context) error {
				return known(ctx, m.NS, nodeDNS, "Host.corp.example.", corpAddress)
			})
			machine.Wait(t, "an endpoint by hand", func(ctx context.Context) error {
				return errors.Join(known(ctx, m.NS, nodeDNS, "by-hand.default.svc.cluster.local.", "192.0.2.44"), known(ctx, m.NS, "10.43.0.10:53", "one.by-hand.default.svc.cluster.local.", "192.0.2.44"))
			})
			// What the node says of itself counts it.
			out, err := s.machines[0].Kubectl(nil, "get", "--raw", fmt.Sprintf("/api/v1/nodes/stage-%d/proxy/metrics", i))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`coredns_dns_requests_total{proto="udp",type="A"}`, "kubeproxy_sync_proxy_rules_duration_seconds_count", "kubeproxy_network_programming_duration_seconds_count", "kubelet_node_name"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %s", want)
				}
			}
		})
	}
}

// stillKnown asks machines for a name while the server is away.
func (s *fleet) stillKnown(t *testing.T, machines ...*machine.Machine) {
	t.Helper()
	for _, m := range machines {
		machine.Wait(t, "a name, without the server", func(ctx context.Context) error {
			return known(ctx, m.NS, nodeDNS, "by-hand.default.svc.cluster.local.", "192.0.2.44")
		})
	}
}

// balancers has a service at the addresses of the nodes, and asks from outside, from each node and from pods.
func (s *fleet) balancers(t *testing.T) {
	ctx := t.Context()
	api := s.client.CoreV1().Services("default")
	create := func(name string, port int32) {
		t.Helper()
		if _, err := api.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "everywhere"}, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(8080)}},
		}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	addresses := []string{"10.7.1.1", "10.7.1.2", "10.7.2.3"}
	has := func(name string, want []string) {
		t.Helper()
		machine.Wait(t, fmt.Sprintf("service %s to have the addresses %v", name, want), func(ctx context.Context) error {
			svc, err := api.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, in := range svc.Status.LoadBalancer.Ingress {
				got = append(got, in.IP)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("it has %v; %v", got, svc.Status.Conditions)
			}
			return nil
		})
	}
	create("front", 8088)
	has("front", addresses)
	if out, err := s.machines[0].Kubectl(nil, "get", "service", "front"); err != nil || !strings.Contains(out, strings.Join(addresses, ",")) {
		t.Errorf("%s, %v", out, err)
	}
	on, err := s.running(ctx, 6)
	if err != nil {
		t.Fatal(err)
	}
	asked := func(who string, from *machine.NetNS, address string, is func(client string) bool) {
		t.Helper()
		web := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: from.Dial}}
		machine.Wait(t, fmt.Sprintf("%s to reach %s", who, address), func(context.Context) error {
			resp, err := web.Get("http://" + address + ":8088/cgi-bin/who")
			if err != nil {
				return err
			}
			page, err := io.ReadAll(resp.Body)
			if err := errors.Join(err, resp.Body.Close()); err != nil {
				return err
			}
			if client := strings.TrimSpace(string(page)); !is(client) {
				return fmt.Errorf("the pod sees %q", client)
			}
			return nil
		})
	}
	anybody := func(client string) bool { return net.ParseIP(client) != nil }
	for _, address := range addresses {
		asked("somebody outside", s.router, address, anybody)
		for i, m := range s.machines {
			asked(fmt.Sprintf("machine %d", i), m.NS, address, anybody)
		}
		for node, pods := range on {
			script := fmt.Sprintf("printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s 8088 | tail -n 1", address)
			machine.Wait(t, fmt.Sprintf("a pod on %s to reach %s", node, address), func(context.Context) error {
				out, err := s.machines[0].Kubectl(nil, "exec", pods[0].Name, "--", "sh", "-c", script)
				if err == nil && !anybody(strings.TrimSpace(out)) {
					err = fmt.Errorf("it says %q", out)
				}
				return err
			})
		}
	}

	// Only its own pods: who asks is seen.
	if _, err := api.Patch(ctx, "front", types.MergePatchType, []byte(`{"spec":{"externalTrafficPolicy":"Local"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for address, router := range map[string]string{"10.7.1.1": "10.7.1.254", "10.7.1.2": "10.7.1.254", "10.7.2.3": "10.7.2.254"} {
		asked("somebody outside whose address is kept", s.router, address, func(client string) bool { return client == router })
	}

	// A second one that wants the port waits until it is free, and is told why; the nodes' own ports are nobody's.
	create("second", 8088)
	create("api", 6443)
	for name, why := range map[string]string{"second": "port 8088/TCP of the nodes is that of service default/front", "api": "port 6443/TCP of the nodes is the nodes' own"} {
		machine.Wait(t, "an event that says why "+name+" waits", func(ctx context.Context) error {
			events, err := s.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",reason=SyncLoadBalancerFailed"})
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return strings.Contains(e.Message, why) }) {
				return fmt.Errorf("events: %v", events.Items)
			}
			return nil
		})
		has(name, nil)
	}
	if err := api.Delete(ctx, "front", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	has("second", addresses)
	asked("somebody outside", s.router, addresses[0], anybody)
	for _, name := range []string{"second", "api"} {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		machine.Wait(t, name+" to be gone", func(ctx context.Context) error {
			if _, err := api.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	}
	machine.Wait(t, "nobody to answer at the address", func(context.Context) error {
		c, err := s.router.Dial(ctx, "tcp", addresses[0]+":8088")
		if err == nil {
			return errors.Join(errors.New("somebody does"), c.Close())
		}
		return nil
	})
}

// TestOtherDNS: where ours is left out, a service of the well-known address leads to whoever takes its place. Neither of two replaced parts leaves anything.
func TestOtherDNS(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, "--disable=dns,load-balancer", "--service-cidr", "10.43.0.0/16")
	giveBusybox(t, m)
	ctx := t.Context()
	var gateway string
	machine.Wait(t, "the node's range", func(ctx context.Context) error {
		nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(nodes.Items) != 1 || nodes.Items[0].Spec.PodCIDR == "" {
			return fmt.Errorf("%d nodes, none with a range", len(nodes.Items))
		}
		gateway = strings.TrimSuffix(nodes.Items[0].Spec.PodCIDR, "0/24") + "1"
		return nil
	})
	nameServer(t, m.NS, ":5399", corpAddress)
	if _, err := c.CoreV1().Services("kube-system").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns"}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.43.0.10", Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5399)}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DiscoveryV1().EndpointSlices("kube-system").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns-1", Labels: map[string]string{discoveryv1.LabelServiceName: "kube-dns"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{gateway}}}, Ports: []discoveryv1.EndpointPort{{Name: new("dns"), Port: new(int32(5399)), Protocol: new(corev1.ProtocolUDP)}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Kubectl(nil, "run", "asks", "--image="+busybox, "--command", "--", "sleep", "3600"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a pod to be answered by the other", func(context.Context) error {
		out, err := m.Kubectl(nil, "exec", "asks", "--", "nslookup", "-type=a", "anything.example")
		if err == nil && !strings.Contains(out, corpAddress) {
			err = errors.New(out)
		}
		return err
	})
	domainsWithoutDNS(t, m)
	svc, err := c.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "balanced"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Services("default").Delete(ctx, svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.CoreV1().Services("default").Get(ctx, svc.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v, %v", got, err)
	}
}

// namesOfBoth asks the cluster's DNS at its addresses of both families, for names and for the way back, and gives a load balancer the addresses of both.
func (s *fleet) namesOfBoth(t *testing.T) {
	dnsService, err := s.client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ips := dnsService.Spec.ClusterIPs; !slices.Equal(ips, []string{"10.43.0.10", "fd43::a"}) {
		t.Errorf("kube-dns has %v", ips)
	}
	both := corev1.IPFamilyPolicyRequireDualStack
	svc, err := s.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "both"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, IPFamilyPolicy: &both, Selector: map[string]string{"app": "everywhere"}, Ports: []corev1.ServicePort{{Port: 8099, TargetPort: intstr.FromInt32(8080)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(svc.Spec.ClusterIPs) != 2 {
		t.Fatalf("it has %v", svc.Spec.ClusterIPs)
	}
	for i, m := range s.machines {
		for _, server := range []string{"10.43.0.10:53", "[fd43::a]:53", nodeDNS} {
			machine.Wait(t, fmt.Sprintf("machine %d to be answered at %s", i, server), func(ctx context.Context) error {
				six, err := lookup(ctx, m.NS, server, "both.default.svc.cluster.local.", dns.TypeAAAA)
				if err != nil {
					return err
				}
				if len(six.Answer) != 1 || six.Answer[0].(*dns.AAAA).AAAA.String() != svc.Spec.ClusterIPs[1] {
					return fmt.Errorf("AAAA is %v, want %v", six.Answer, svc.Spec.ClusterIPs[1])
				}
				for _, ip := range svc.Spec.ClusterIPs {
					name, err := dns.ReverseAddr(ip)
					if err != nil {
						return err
					}
					back, err := lookup(ctx, m.NS, server, name, dns.TypePTR)
					if err != nil {
						return err
					}
					if len(back.Answer) != 1 || back.Answer[0].(*dns.PTR).Ptr != "both.default.svc.cluster.local." {
						return fmt.Errorf("the name of %s is %v", ip, back.Answer)
					}
				}
				return known(ctx, m.NS, server, "both.default.svc.cluster.local.", svc.Spec.ClusterIPs[0])
			})
		}
	}
	want := []string{"10.7.1.1", "10.7.1.2", "10.7.2.3", "fd07:0:0:1::1", "fd07:0:0:1::2", "fd07:0:0:2::3"}
	machine.Wait(t, "the addresses of both", func(ctx context.Context) error {
		got, err := s.client.CoreV1().Services("default").Get(ctx, "both", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var ips []string
		for _, in := range got.Status.LoadBalancer.Ingress {
			ips = append(ips, in.IP)
		}
		if !slices.Equal(ips, want) {
			return fmt.Errorf("it has %v", ips)
		}
		return nil
	})
	for _, address := range want {
		machine.Wait(t, "somebody outside to reach "+address, func(ctx context.Context) error {
			c, err := s.router.Dial(ctx, "tcp", net.JoinHostPort(address, "8099"))
			if err == nil {
				err = c.Close()
			}
			return err
		})
	}
}
