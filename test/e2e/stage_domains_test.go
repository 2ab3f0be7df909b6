package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// domainRules let pods of a namespace reach what two names lead to, and nothing else.
const domainRules = `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: named}
spec:
  tier: Admin
  priority: 20
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: named}}}
  egress:
  - {action: Accept, to: [{domainNames: [Api.Corp.Example, "*.wild.corp.example."]}], protocols: [{tcp: {destinationPort: {number: 7655}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}
`

// corpNames answers for names of corp.example, from the router, until the test ends. An alias leads to each.
func (s *fleet) corpNames(t *testing.T, addresses map[string]string) {
	t.Helper()
	var c net.PacketConn
	if err := s.router.Do(func() (err error) {
		c, err = net.ListenPacket("udp", corpServer)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: c, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, name := new(dns.Msg).SetReply(q), q.Question[0].Name
		header := func(name string, kind uint16) dns.RR_Header {
			return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 1}
		}
		switch address, ok := addresses[strings.ToLower(name)]; {
		case !ok:
			m.Rcode = dns.RcodeNameError
		case q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{
				&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: "host.elsewhere.example."}, &dns.A{Hdr: header("host.elsewhere.example.", dns.TypeA), A: net.ParseIP(address)},
			}
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

// greets says hello at an address of the router, until the test ends.
func (s *fleet) greets(t *testing.T, where string) {
	t.Helper()
	l, err := s.router.Listen("tcp", where)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello\n"))
			_ = c.(*net.TCPConn).CloseWrite()
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// domains has policies about names: pods reach the addresses that the cluster's DNS gave out for them.
func (s *fleet) domains(t *testing.T) {
	s.corpNames(t, map[string]string{"api.corp.example.": "10.7.1.254", "x.y.wild.corp.example.": "10.7.2.254", "other.corp.example.": "10.7.2.254"})
	addresses := []string{"10.7.1.254 7655", "10.7.2.254 7655"}
	for _, a := range addresses {
		s.greets(t, strings.Replace(a, " ", ":", 1))
	}
	if _, err := s.machines[0].Kubectl(strings.NewReader("apiVersion: v1\nkind: Namespace\nmetadata: {name: named}\n"+fmt.Sprintf(policyClient, "named")), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	pods := s.byNode(t, "named", "app=client")
	s.asks(t, "before there is a policy", pods, addresses, everyAddress)
	if _, err := s.machines[0].Kubectl(strings.NewReader(clusterKind), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a policy about names", func(context.Context) error {
		_, err := s.machines[0].Kubectl(strings.NewReader(domainRules), "apply", "-f", "-")
		return err
	})
	if _, err := s.machines[0].Kubectl(nil, "wait", "clusternetworkpolicy/named", "--for=condition=Accepted", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "before the names were asked for", pods, addresses, noAddress)
	s.asksFor(t, pods, "other.corp.example", "10.7.2.254")
	s.asks(t, "after another name was asked for", pods, addresses, noAddress)
	s.asksFor(t, pods, "api.corp.example", "10.7.1.254")
	first := func(a string) bool { return a == addresses[0] }
	s.asks(t, "after a name was asked for", pods, addresses, first)

	// The process that learned it is killed; the next knows it, and nobody has to ask again.
	machine.Wait(t, "the address to be written down", func(context.Context) error {
		data, err := os.ReadFile(filepath.Join(s.machines[1].DataDir, "network", "policy-names"))
		if err == nil && !strings.Contains(string(data), `"10.7.1.254"`) {
			err = errors.New(string(data))
		}
		return err
	})
	if err := s.machines[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.machines[1].Begin("node stage-1 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "after a restart", pods, addresses, first)
	s.asksFor(t, pods, "X.y.wild.corp.example", "10.7.2.254")
	s.asks(t, "after both names were asked for", pods, addresses, everyAddress)
	out, err := s.machines[0].Kubectl(nil, "get", "--raw", "/api/v1/nodes/stage-1/proxy/metrics")
	if err != nil || !strings.Contains(out, "celox_policy_names_late_total") {
		t.Errorf("no word of late answers: %v", err)
	}

	// Without the rule the addresses are nobody's.
	if _, err := s.machines[0].Kubectl(strings.NewReader(strings.Replace(domainRules, "Api.Corp.Example", "nothing.corp.example", 1)), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "with a name less", pods, addresses, func(a string) bool { return a == addresses[1] })
	if _, err := s.machines[0].Kubectl(nil, "delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io"); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "after the kind is gone", pods, addresses, everyAddress)
	if _, err := s.machines[0].Kubectl(nil, "delete", "namespace", "named"); err != nil {
		t.Fatal(err)
	}
}

// asksFor has a pod of each node ask for a name.
func (s *fleet) asksFor(t *testing.T, pods map[string]corev1.Pod, name, address string) {
	t.Helper()
	for node, p := range pods {
		machine.Wait(t, fmt.Sprintf("a pod on %s to know %s", node, name), func(context.Context) error {
			out, err := s.machines[0].Kubectl(nil, "exec", "-n", p.Namespace, p.Name, "--", "nslookup", "-type=a", name)
			if err == nil && !slices.Contains(strings.Fields(out), address) {
				err = errors.New(out)
			}
			return err
		})
	}
}

// domainsWithoutDNS has a policy about names on a machine without the cluster's DNS, and is told why it cannot be.
func domainsWithoutDNS(t *testing.T, m *machine.Machine) {
	t.Helper()
	if _, err := m.Kubectl(strings.NewReader(clusterKind), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a policy about names", func(context.Context) error {
		_, err := m.Kubectl(strings.NewReader(domainRules), "apply", "-f", "-")
		return err
	})
	if _, err := m.Kubectl(nil, "wait", "clusternetworkpolicy/named", "--for=condition=Accepted=False", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
	out, err := m.Kubectl(nil, "get", "clusternetworkpolicy/named", "-o", `jsonpath={.status.conditions[?(@.type=="Accepted")].message}`)
	if err != nil || !strings.Contains(out, "egress rule 0: peer 0: domainNames need the cluster's DNS") || !strings.Contains(out, "--disable=dns") {
		t.Errorf("it says %q, %v", out, err)
	}
}
