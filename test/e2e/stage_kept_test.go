package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/test/e2e/machine"
)

// keptSite is a site on every node, and a pod on every node that a policy closes to all but the node itself.
const keptSite = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: site, namespace: default}
spec:
  selector: {matchLabels: {app: site}}
  template:
    metadata: {labels: {app: site}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www; echo kept > /www/index.html; exec httpd -f -p 0.0.0.0:8080 -h /www']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: shut, namespace: default}
spec:
  selector: {matchLabels: {app: shut}}
  template:
    metadata: {labels: {app: shut}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www; echo shut > /www/index.html; exec httpd -f -p 0.0.0.0:8080 -h /www']
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: site, namespace: default}
spec: {selector: {app: site}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: default}
spec: {podSelector: {matchLabels: {app: shut}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site, namespace: default, annotations: {ingress.celox.io/ssl-redirect: "false"}}
spec:
  tls: [{hosts: [site.example, "*.wild.example"], secretName: site}]
  rules:
  - host: site.example
    http:
      paths: [{path: /, pathType: Prefix, backend: {service: {name: site, port: {number: 80}}}}]
`

// TestStartWithoutServer kills an agent and starts it again while its server is away: what it did for others it goes on to do, and follows the cluster when the
// server is back.
func TestStartWithoutServer(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	s.pair(t)
	const node = "10.7.1.2"
	agent, outside := s.machines[1], s.visitor(t, node, false)
	pods := map[string]corev1.Pod{}
	machine.Wait(t, "the pods", func(ctx context.Context) error {
		l, err := s.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range l.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
			pods[p.Labels["app"]+" on "+p.Spec.NodeName] = p
		}
		if ready != 4 {
			return fmt.Errorf("%d are Ready", ready)
		}
		return nil
	})
	open, shut := pods["site on stage-1"].Status.PodIP, pods["shut on stage-1"].Status.PodIP
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "site", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// From the server's machine, whose pods and ways don't need the server: the policy is the agent's.
	far := func(ctx context.Context, address string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		c, err := s.machines[0].NS.Dial(ctx, "tcp", net.JoinHostPort(address, "8080"))
		if err == nil {
			err = c.Close()
		}
		return err
	}
	works := func(when string) {
		t.Helper()
		for _, url := range []string{"http://site.example/", "https://site.example/"} {
			machine.Wait(t, url+" "+when, func(context.Context) error {
				code, body, err := visit(outside, url)
				if err == nil && (code != 200 || body != "kept\n") {
					err = fmt.Errorf("got %d %q", code, body)
				}
				return err
			})
		}
		machine.Wait(t, "the certificate "+when, func(ctx context.Context) error { return s.presents(ctx, node, "first") })
		machine.Wait(t, "the service "+when, func(context.Context) error {
			resp, err := agent.HTTP().Get("http://" + svc.Spec.ClusterIP + "/")
			if err == nil {
				err = resp.Body.Close()
			}
			return err
		})
		machine.Wait(t, "the name "+when, func(ctx context.Context) error {
			return known(ctx, agent.NS, nodeDNS, "site.default.svc.cluster.local.", svc.Spec.ClusterIP)
		})
		machine.Wait(t, "the open pod "+when, func(ctx context.Context) error { return far(ctx, open, 5*time.Second) })
	}
	works("at first")
	closed := func(ctx context.Context) error {
		if far(ctx, shut, time.Second) == nil {
			return errors.New("it is open")
		}
		return nil
	}
	machine.Wait(t, "the policy", closed)
	keeps(t, agent, "ingress", open, pods["site on stage-0"].Status.PodIP, "site.example", "BEGIN PRIVATE KEY")
	keeps(t, agent, "names", svc.Spec.ClusterIP)

	if err := s.machines[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := closed(t.Context()); err != nil {
		t.Errorf("the policy while nobody runs: %v", err)
	}
	if err := agent.Begin("node stage-1 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	works("without the server and with a new agent")
	if err := closed(t.Context()); err != nil {
		t.Errorf("the policy without the server and with a new agent: %v", err)
	}

	if err := s.machines[0].Start(stageArguments()...); err != nil {
		t.Fatal(err)
	}
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.CoreV1().Secrets("default").Update(t.Context(), siteCertificate(t, "second"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`[{"op":"replace","path":"/spec/rules/0/host","value":"new.wild.example"}]`)
	if _, err := s.client.NetworkingV1().Ingresses("default").Patch(t.Context(), "site", types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]int{"http://site.example/": 404, "http://new.wild.example/": 200} {
		machine.Wait(t, url+" with the server again", func(context.Context) error {
			code, _, err := visit(outside, url)
			if err == nil && code != want {
				err = fmt.Errorf("got %d, want %d", code, want)
			}
			return err
		})
	}
	machine.Wait(t, "the new certificate", func(ctx context.Context) error { return s.presents(ctx, node, "second") })
}

// pair starts the server and the agent on its segment, and the site on both.
func (s *fleet) pair(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.machines[0].Start(stageArguments()...))
	var err error
	s.client, err = s.machines[0].Client()
	must(err)
	token, err := s.machines[0].Celox("token", "create")
	must(err)
	must(s.machines[1].StartAgent("--server", stageServer, "--token", strings.TrimSpace(token)))
	for _, m := range s.machines[:2] {
		giveBusybox(t, m)
	}
	_, err = s.client.CoreV1().Secrets("default").Create(t.Context(), siteCertificate(t, "first"), metav1.CreateOptions{})
	must(err)
	_, err = s.machines[0].Kubectl(strings.NewReader(keptSite), "apply", "-f", "-")
	must(err)
}

// keeps waits until a file that a node keeps for a start without the API has what it should, and looks that only root can read it.
func keeps(t *testing.T, m *machine.Machine, file string, wants ...string) {
	t.Helper()
	path := filepath.Join(m.DataDir, "network", file)
	machine.Wait(t, "what the node keeps in "+file, func(context.Context) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, want := range wants {
			if !bytes.Contains(data, []byte(want)) {
				return fmt.Errorf("it does not have %q", want)
			}
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
}
