package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// routedConf is a network of Debian's plugins in which the node routes between its pods; cniConf is one with a bridge.
const routedConf = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": true, "capabilities": {"ipRanges": true},
   "ipam": {"type": "host-local", "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}]}}
]}`

// macvlanConf is one in which pods are on the node's wire by themselves.
const macvlanConf = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "macvlan", "master": "eth0", "mode": "bridge", "capabilities": {"ipRanges": true},
   "ipam": {"type": "host-local", "dataDir": %q}}
]}`

// TestPoliciesWithPlugins: whoever connects pods, policies hold, or somebody says that they do not.
func TestPoliciesWithPlugins(t *testing.T) {
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
		if err := m.NS.Do(cniFrame); err != nil {
			t.Error(err)
		}
	})
	if err := segment.Plug(m.NS, machine.Interface, netip.MustParsePrefix(cniNode+"/24")); err != nil {
		t.Fatal(err)
	}
	conf, addresses := filepath.Join(dir, "net.d"), filepath.Join(dir, "addresses")
	flags := []string{"--disable", "pod-network", "--cni-conf-dir", conf, "--cni-bin-dir", debianPlugins}
	writeWhole(t, filepath.Join(conf, "pods.conflist"), fmt.Sprintf(routedConf, addresses))
	if err := m.Start(flags...); err != nil {
		t.Fatal(err)
	}
	if err := furnish(m); err != nil {
		t.Fatal(err)
	}
	c, err := m.Client()
	if err != nil {
		t.Fatal(err)
	}
	s := &fleet{t: t, machines: []*machine.Machine{m}, client: c}
	s.policy(t, "metadata: {name: mute, namespace: default}\nspec: {podSelector: {matchLabels: {app: muted}}, policyTypes: [Egress]}\n")
	s.policy(t, "metadata: {name: door, namespace: default}\nspec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [stranger]}]}}]}]}\n")

	t.Run("routed", func(t *testing.T) {
		s.heldTo(t)
		// What is in force is in force for pods of before, too.
		if err := m.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if n, err := policyTables(m, true); err != nil || n == 0 {
			t.Fatalf("%d tables: %v", n, err)
		}
		if err := m.Start(flags...); err != nil {
			t.Fatal(err)
		}
		machine.Wait(t, "the rules to be back", func(context.Context) error {
			n, err := policyTables(m, false)
			if err == nil && n == 0 {
				err = errors.New("there is no table")
			}
			return err
		})
		newInside(t, m).forget("muted", "stranger")
		s.callsAsTold(t, "after a restart")
		s.gone(t)
	})
	t.Run("bridged", func(t *testing.T) {
		writeWhole(t, filepath.Join(conf, "pods.conflist"), fmt.Sprintf(cniConf, addresses))
		s.heldTo(t)
		s.gone(t)
	})
	t.Run("past the node", func(t *testing.T) {
		writeWhole(t, filepath.Join(conf, "pods.conflist"), fmt.Sprintf(macvlanConf, addresses))
		pod := shellPod("muted", "sleep 100000", "")
		pod.Labels = map[string]string{"app": "muted"}
		if _, err := s.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		machine.Wait(t, "the word that policies do not hold", func(ctx context.Context) error {
			l, err := s.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,involvedObject.name=muted"})
			if err != nil {
				return err
			}
			var have []string
			for _, e := range l.Items {
				if e.Reason == "PolicyNotEnforced" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "an interface of the type macvlan") {
					return nil
				}
				have = append(have, e.Reason+": "+e.Message)
			}
			return fmt.Errorf("there are %q", have)
		})
		if _, err := m.Kubectl(nil, "delete", "pod", "muted", "--timeout", patience.String()); err != nil {
			t.Fatal(err)
		}
	})
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(append(flags, "--disable", "pod-network,network-policy")...); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "no tables, where others do policies", func(context.Context) error {
		n, err := policyTables(m, false)
		if err == nil && n != 0 {
			err = fmt.Errorf("there are %d", n)
		}
		return err
	})
}

// heldTo runs a server and pods that call it from their first moment on.
func (s *fleet) heldTo(t *testing.T) {
	t.Helper()
	server := shellPod("server", "mkdir -p /www/cgi-bin; echo '#!/bin/sh' >/www/cgi-bin/who; echo 'echo; echo hello' >>/www/cgi-bin/who; chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www", "")
	server.Labels = map[string]string{"app": "server"}
	if _, err := s.client.CoreV1().Pods("default").Create(t.Context(), server, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var address string
	machine.Wait(t, "the server", func(ctx context.Context) error {
		p, err := s.client.CoreV1().Pods("default").Get(ctx, "server", metav1.GetOptions{})
		if err == nil && (p.Status.PodIP == "" || p.Status.Phase != corev1.PodRunning) {
			err = fmt.Errorf("it is %s, with the address %q", p.Status.Phase, p.Status.PodIP)
		}
		if err == nil {
			address = p.Status.PodIP
		}
		return err
	})
	for _, name := range []string{"muted", "stranger", "free"} {
		if _, err := s.client.CoreV1().Pods("default").Create(t.Context(), callerPod(name, "", address), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.callsAsTold(t, "from the first moment on")
}

func (s *fleet) callsAsTold(t *testing.T, when string) {
	t.Helper()
	look := newInside(t, s.machines[0])
	for _, name := range []string{"muted", "stranger"} {
		if n := look.tried(name); n != 0 {
			t.Errorf("%s, %d calls of %s were answered", when, n, name)
		}
	}
	if look.tried("free") == 0 {
		t.Errorf("%s, nobody is answered", when)
	}
}

// gone takes the pods away.
func (s *fleet) gone(t *testing.T) {
	t.Helper()
	if _, err := s.machines[0].Kubectl(nil, "delete", "pod", "--all", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
}
