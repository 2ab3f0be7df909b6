package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
)

// nodePort is where a node has its API.
const nodePort = 10250

// firewall drops what opens connections to a TCP port of a machine, without a word, until open is called.
func firewall(t *testing.T, m *machine.Machine, port uint16) (open func()) {
	t.Helper()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: fmt.Sprintf("firewall-%d", port)}
	change := func(f func(c *nftables.Conn)) {
		t.Helper()
		if err := m.NS.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			f(c)
			return c.Flush()
		}); err != nil {
			t.Fatal(err)
		}
	}
	change(func(c *nftables.Conn) {
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "input", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{6}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
			// Of the flags only SYN: connections that stand go on.
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	})
	closed := true
	open = func() {
		if closed {
			closed = false
			change(func(c *nftables.Conn) { c.DelTable(table) })
		}
	}
	t.Cleanup(open)
	return open
}

// edge uses nodes whose port the server cannot connect to: their own tunnels lead there.
func (s *fleet) edge(t *testing.T) {
	on, err := s.running(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.machines[1:] {
		firewall(t, m, nodePort)
	}
	for i, m := range s.machines[1:] {
		node := fmt.Sprintf("stage-%d", i+1)
		t.Run(node, func(t *testing.T) {
			s.commands(t, on[node][0])
			missed(t, m, s.client, node)
		})
	}
	t.Run("proxies", func(t *testing.T) {
		giveMirror(t, s.machines[2])
		putMirror(t, s.machines[0], s.client, "stage-2")
		askProxies(t, s.machines[0])
		s.clients(t)
		if out, err := s.machines[0].Kubectl(nil, "delete", "pod/mirror", "service/mirror", "secret/mirror"); err != nil {
			t.Errorf("%s, %v", out, err)
		}
	})
}

// missed waits until somebody has said that the server does not reach a node.
func missed(t *testing.T, m *machine.Machine, c kubernetes.Interface, node string) {
	t.Helper()
	machine.Wait(t, "a word of the agent", func(context.Context) error {
		if !strings.Contains(m.Output(), "cannot connect to TCP port 10250 of this node") {
			return errors.New("it says nothing of the kind")
		}
		return nil
	})
	machine.Wait(t, "an event", func(ctx context.Context) error {
		l, err := c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=ReachedThroughTunnel,involvedObject.name=" + node})
		if err == nil && len(l.Items) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
}

// commands does with a pod what goes by way of its node.
func (s *fleet) commands(t *testing.T, pod corev1.Pod) {
	t.Helper()
	u := s.user(t)
	for _, protocol := range []string{"true", "false"} { // WebSocket or SPDY
		u.env = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + protocol}
		u.says("begun", "logs", pod.Name)
		u.says(pod.Name, "exec", pod.Name, "--", "hostname")
		u.says("ok", "get", "--raw", "/api/v1/nodes/"+pod.Spec.NodeName+"/proxy/healthz")
		has(t, u.kubectl("get", "--raw", "/api/v1/nodes/"+pod.Spec.NodeName+"/proxy/metrics"), "kubelet_node_name")
		file := filepath.Join(t.TempDir(), "file")
		text := strings.Repeat("some text, and more of it\n", 40_000) // a megabyte
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		u.kubectl("cp", file, pod.Name+":/file")
		u.kubectl("cp", pod.Name+":/file", file+"-back")
		if back, err := os.ReadFile(file + "-back"); err != nil || string(back) != text {
			t.Errorf("what is copied to the pod and back has %d of %d bytes, %v", len(back), len(text), err)
		}
		name := "reader-" + pod.Spec.NodeName + "-" + protocol
		if out, err := s.machines[0].Kubectl(strings.NewReader(fmt.Sprintf(reader, name, pod.Spec.NodeName)), "apply", "-f", "-"); err != nil {
			t.Fatalf("%s, %v", out, err)
		}
		u.await("pod/"+name, "condition=Ready")
		has(t, u.feed("to whom it concerns\n", "attach", "-i", name), "it says to whom it concerns")
		u.kubectl("delete", "pod", name, "--wait=false")
	}
}

// reader is a pod that waits for a line.
const reader = `
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  nodeName: %s
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: busybox:1, stdin: true, stdinOnce: true, command: [sh, -c, "read line; echo it says $line"]}]
`

// user is somebody at the server, who works in the namespace default.
func (s *fleet) user(t *testing.T) *user {
	t.Helper()
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return &user{t: t, m: s.machines[0], command: []string{bin, "kubectl"}, ns: "default"}
}

// clients reach the mirror, which is on another node, with kubectl's own proxies.
func (s *fleet) clients(t *testing.T) {
	t.Helper()
	u := s.user(t)
	address := u.background(u.start("proxy", "--port", "0"), `Starting to serve on (127\.0\.0\.1:\d+)`)
	has(t, u.fetch("http://"+address+"/api/v1/namespaces/default/services/mirror:http/proxy/by/kubectl"), `"/by/kubectl"`)
	for _, protocol := range []string{"true", "false"} { // WebSocket or SPDY
		u.env = []string{"KUBECTL_PORT_FORWARD_WEBSOCKETS=" + protocol}
		address := u.background(u.start("port-forward", "service/mirror", ":80"), `Forwarding from (127\.0\.0\.1:\d+) -> 8080`)
		for range 3 {
			has(t, u.fetch("http://"+address+"/by/port"), `"/by/port"`)
		}
	}
}

// TestServerWithoutNode: a server that is no node has no way to pods but the tunnels of their nodes. Everything else that goes to pods takes them too: the
// API's proxies, webhooks, and other API servers.
func TestServerWithoutNode(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	server, agent := s.machines[0], s.machines[2]
	if err := server.Start("--disable-node", "--service-cidr", "10.43.0.0/16"); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = server.Client(); err != nil {
		t.Fatal(err)
	}
	token, err := server.Celox("token", "create")
	if err != nil {
		t.Fatal(err)
	}
	firewall(t, agent, nodePort)
	if err := agent.StartAgent("--server", stageServer, "--token", strings.TrimSpace(token)); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, agent)
	giveMirror(t, agent)
	bundle := base64.StdEncoding.EncodeToString(putMirror(t, server, s.client, "stage-2"))
	askProxies(t, server)
	s.clients(t)
	missed(t, agent, s.client, "stage-2")

	apply(t, server, `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: mirror}
webhooks:
- name: refuse.celox.test
  sideEffects: None
  admissionReviewVersions: [v1]
  objectSelector: {matchLabels: {refuse: me}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  clientConfig: {caBundle: `+bundle+`, service: {namespace: default, name: mirror, path: /refuse, port: 443}}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.mirror.celox.test}
spec:
  group: mirror.celox.test
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  caBundle: `+bundle+`
  service: {namespace: default, name: mirror, port: 443}
`)
	machine.Wait(t, "a refusal of the webhook", func(ctx context.Context) error {
		_, err := s.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "refused-", Labels: map[string]string{"refuse": "me"}},
		}, metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "the mirror does not like it") {
			return fmt.Errorf("it says %v", err) //nolint:errorlint // also nil
		}
		return nil
	})
	machine.Wait(t, "an answer of the other API server", func(context.Context) error {
		out, err := server.Kubectl(nil, "get", "--raw", "/apis/mirror.celox.test/v1/things/of/it")
		if err == nil && !strings.Contains(out, `"/apis/mirror.celox.test/v1/things/of/it"`) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})

	// The tunnel comes back when the server does, and leads nowhere else.
	if err := server.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := server.Start("--disable-node", "--service-cidr", "10.43.0.0/16"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the mirror again", func(context.Context) error {
		out, err := server.Kubectl(nil, "get", "--raw", "/api/v1/namespaces/default/services/mirror:http/proxy/again")
		if err == nil && !strings.Contains(out, `"/again"`) {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
}
