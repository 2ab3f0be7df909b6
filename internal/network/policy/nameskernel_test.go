package policy

import (
	"net/netip"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestNamesInKernel: a pod reaches the addresses that a name has, and goes on with connections that stand to those that it had.
func TestNamesInKernel(t *testing.T) {
	s := newStage(t)
	web, one := s.pods[0], s.pods[1]
	in := &ClusterNetworkPolicy{}
	s.check(yaml.UnmarshalStrict([]byte(`spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: one}}}}
  egress:
  - {action: Accept, to: [{domainNames: ["*.example.org"]}], protocols: [{tcp: {}}, {udp: {destinationPort: {number: 8080}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}
`), in))
	p, err := parseCluster(in, true)
	s.check(err)
	update := func(has, had []netip.Addr) {
		t.Helper()
		s.s.setName("a.example.org", resolved{has, had})
		s.check(s.d.Update(s.s.desired, s.s.settle()))
	}
	s.s.setClusterPolicy("names", p)
	update(nil, nil)
	both := []netip.Addr{netip.MustParseAddr("192.168.7.2"), netip.MustParseAddr("fd07::2")}
	addrs := calls("outside", 8080)
	for _, a := range addrs {
		s.silentOver(one, "tcp", a)
	}
	s.reaches(web, s.outside, 8080)
	update(both, nil)
	for _, a := range addrs {
		s.reachesOver(one, "tcp", a, "outside")
		s.reachesOver(one, "udp", a, "outside")
	}
	s.silentOver(one, "udp", "192.168.7.2:9090")
	s.silent(one, web, 8080)

	var connections *Connections
	s.node.Must(func() (err error) {
		connections, err = NewConnections()
		return err
	})
	defer connections.Close()
	for i, a := range addrs {
		answered := s.talk(one, a)
		s.until("an answer", answered)
		asked := map[netip.Addr]bool{both[i]: false, netip.MustParseAddr("192.0.2.77"): false, netip.MustParseAddr("2001:db8::77"): false}
		s.check(connections.Standing(asked))
		for b, stands := range asked {
			if stands != (b == both[i]) {
				t.Errorf("a connection to %v stands: %v", b, stands)
			}
		}
		update(nil, both)
		s.silentOver(one, "tcp", a)
		s.silentOver(one, "udp", a)
		s.until("an answer on what stands", answered)
		s.check(s.d.Replace(s.s.desired))
		s.silentOver(one, "tcp", a)
		s.until("an answer on what stands, after a restart", answered)
		update(nil, nil)
		s.until("silence", func() bool { return !answered() })
		if answered() {
			t.Errorf("%s answers after the end", a)
		}
		update(both, nil)
	}
	s.s.setClusterPolicy("names", nil)
	update(nil, nil)
	s.reaches(one, s.outside, 8080)
	s.tables(0)
}
