package cluster

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/cluster/config"
)

func TestWhomAMachineAsks(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a"), config.LinkLocalDNS()}
	for _, tc := range []struct {
		name, file      string
		given           []string
		servers, search string
		said            []string
	}{
		{name: "two", file: "nameserver 192.0.2.1\nnameserver fd00::1\nsearch corp.example .\n", servers: "192.0.2.1:53 [fd00::1]:53", search: "corp.example"},
		{name: "ourselves", file: "nameserver 169.254.20.10\nnameserver fd43::a\nnameserver 192.0.2.1\n", servers: "192.0.2.1:53", said: []string{"names the cluster's own DNS (169.254.20.10, fd43::a)"}},
		{name: "only ourselves", file: "nameserver 10.43.0.10\n", said: []string{"names the cluster's own DNS (10.43.0.10)", "give --dns-upstream"}},
		{name: "nothing", said: []string{"give --dns-upstream"}},
		{name: "given", file: "nameserver 10.43.0.10\nsearch corp.example\n", given: []string{"192.0.2.7:5353"}, servers: "192.0.2.7:5353", search: "corp.example"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &machineResolver{file: filepath.Join(t.TempDir(), "resolv.conf"), own: own, given: tc.given}
			if tc.file != "" {
				if err := os.WriteFile(r.file, []byte(tc.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.read(); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(r.servers, " "); got != tc.servers {
				t.Errorf("it asks %q, want %q", got, tc.servers)
			}
			if got := strings.Join(r.search, " "); got != tc.search {
				t.Errorf("it searches %q, want %q", got, tc.search)
			}
			var said []string
			r.word(&host{log: slog.New(slog.DiscardHandler), say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }})
			if !slices.EqualFunc(said, tc.said, strings.Contains) {
				t.Errorf("it says %q, want %q", said, tc.said)
			}
		})
	}
}

// TestFactsOfDNS: agents have the name servers that the server was told.
func TestFactsOfDNS(t *testing.T) {
	f := facts{
		clusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, serviceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
		domain: "cluster.local", dnsUpstream: []string{"192.0.2.1", "[fd00::1]:5353"}, dnsStubs: []string{"corp.example=10.1.2.3", "10.1.2.4"},
	}
	data := f.data()
	got, err := factsFrom(data)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.dnsUpstream, f.dnsUpstream) || !slices.Equal(got.dnsStubs, f.dnsStubs) || len(got.disabled) != 0 {
		t.Errorf("%+v", got)
	}
	if texts := strings.Join(addressTexts(got.dns()), " "); texts != "10.43.0.10 fd43::a" {
		t.Error(texts)
	}
	delete(data, factUpstream) // a server of another version
	if got, err = factsFrom(data); err != nil || len(got.dnsUpstream) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPodNamespaces(t *testing.T) {
	p := &podNamespaces{node: "here", of: map[netip.Addr]string{}}
	h := p.handler()
	pod := func(name, node, ip string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: ip}}}}
	}
	is := func(ip, want string) {
		t.Helper()
		if got, _ := p.Namespace(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s is of %q, want %q", ip, got, want)
		}
	}
	h.OnAdd(pod("a", "here", "10.42.0.2", corev1.PodRunning), false)
	h.OnAdd(pod("b", "there", "10.42.1.2", corev1.PodRunning), false)
	is("10.42.0.2", "a")
	is("10.42.1.2", "")
	// One that is over has given its address away.
	h.OnUpdate(pod("a", "here", "10.42.0.2", corev1.PodRunning), pod("a", "here", "10.42.0.2", corev1.PodSucceeded))
	is("10.42.0.2", "")
	h.OnAdd(pod("c", "here", "10.42.0.2", corev1.PodRunning), false)
	h.OnDelete(pod("a", "here", "10.42.0.2", corev1.PodSucceeded))
	is("10.42.0.2", "c")
	h.OnDelete(pod("c", "here", "10.42.0.2", corev1.PodRunning))
	is("10.42.0.2", "")
}
