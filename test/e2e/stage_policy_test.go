package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// policyPods are servers in one namespace and clients in two, one on each node.
const policyPods = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: staff, labels: {team: staff}}
---
apiVersion: v1
kind: Namespace
metadata: {name: public}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir -p /www; echo hello > /www/index.html; trap "kill \$!; exit 0" TERM; httpd -f -p 0.0.0.0:9090 -h /www & httpd -f -p 0.0.0.0:8080 -h /www & wait']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`

const policyClient = `
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: %s}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'trap "exit 0" TERM; while true; do sleep 1; done']
`

// byNode waits for the running pods of a namespace with a label, one on each node.
func (s *fleet) byNode(t *testing.T, namespace, label string) map[string]corev1.Pod {
	t.Helper()
	var out map[string]corev1.Pod
	machine.Wait(t, "pods "+label+" in "+namespace, func(ctx context.Context) error {
		l, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: label})
		if err != nil {
			return err
		}
		out = map[string]corev1.Pod{}
		for _, p := range l.Items {
			ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
			if p.DeletionTimestamp == nil && ready {
				out[p.Spec.NodeName] = p
			}
		}
		if len(out) != 3 {
			return fmt.Errorf("ready on %d nodes", len(out))
		}
		return nil
	})
	return out
}

// asks waits until each client gets an answer of exactly those of the addresses ("ADDRESS PORT") that it should.
func (s *fleet) asks(t *testing.T, what string, clients map[string]corev1.Pod, addresses []string, should func(address string) bool) {
	t.Helper()
	var script strings.Builder
	for _, a := range addresses {
		fmt.Fprintf(&script, "(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 %s | grep -q hello && echo '%s') &\n", a, a)
	}
	script.WriteString("wait")
	machine.Wait(t, what, func(context.Context) error {
		var all errgroup.Group
		for node, from := range clients {
			all.Go(func() error {
				out, err := s.machines[0].Kubectl(nil, "exec", "-n", from.Namespace, from.Name, "--", "sh", "-c", script.String())
				if err != nil {
					return err
				}
				for _, a := range addresses {
					if answers := slices.Contains(strings.Split(out, "\n"), a); answers != should(a) {
						return fmt.Errorf("%s/%s on %s: that %s answers is %v", from.Namespace, from.Name, node, a, answers)
					}
				}
				return nil
			})
		}
		return all.Wait()
	})
}

func (s *fleet) policy(t *testing.T, text string) {
	t.Helper()
	if _, err := s.machines[0].Kubectl(strings.NewReader("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"+text), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func everyAddress(string) bool { return true }
func noAddress(string) bool    { return false }

func (s *fleet) policies(t *testing.T) {
	if _, err := s.machines[0].Kubectl(strings.NewReader(policyPods+fmt.Sprintf(policyClient, "staff")+fmt.Sprintf(policyClient, "public")), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	web, staff, public := s.byNode(t, "shop", "app=web"), s.byNode(t, "staff", "app=client"), s.byNode(t, "public", "app=client")
	var http, both []string
	for _, p := range web {
		http = append(http, p.Status.PodIP+" 8080")
		both = append(both, p.Status.PodIP+" 8080", p.Status.PodIP+" 9090")
	}
	s.asks(t, "before there is a policy", public, both, everyAddress)

	// A connection that stands: from one node to a server on another, which waits for the request.
	stands, err := s.machines[1].NS.Dial(t.Context(), "tcp", web["stage-0"].Status.PodIP+":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer stands.Close()
	s.policy(t, "metadata: {name: closed, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Ingress]}\n")
	s.asks(t, "with all ingress denied", public, both, noAddress)
	s.asks(t, "with all ingress denied", staff, both, noAddress)
	if _, err := stands.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 100)
	if err := stands.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := stands.Read(answer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what stands was not cut: %q, %v", answer[:n], err)
	}

	s.policy(t, `metadata: {name: staff, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - {from: [{namespaceSelector: {matchLabels: {team: staff}}, podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}
  - {from: [{ipBlock: {cidr: 10.7.1.2/32}}]}
`)
	s.asks(t, "for one namespace, by the port's name", staff, both, func(a string) bool { return strings.HasSuffix(a, " 8080") })
	s.asks(t, "for another namespace", public, both, noAddress)
	if err := stands.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stands).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Errorf("what stood does not go on: %q, %v", line, err)
	}
	s.egress(t, staff["stage-2"], http)
	s.firstPacket(t, http)
	s.repairPolicies(t, public, staff, http)
	s.clusterPolicies(t, public, staff, both)
	if _, err := s.machines[0].Kubectl(nil, "delete", "networkpolicy", "-n", "shop", "--all"); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "without policies again", public, both, everyAddress)
	if _, err := s.machines[0].Kubectl(nil, "delete", "namespace", "shop", "staff", "public"); err != nil {
		t.Fatal(err)
	}
}

// egress lets a pod reach a network but for one address of it.
func (s *fleet) egress(t *testing.T, from corev1.Pod, http []string) {
	var addresses []string
	for i, host := range []string{"10.7.1.1", "10.7.1.2"} {
		l, err := s.machines[i].NS.Listen("tcp", host+":7654")
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
		defer func() {
			_ = l.Close()
			<-done
		}()
		addresses = append(addresses, host+" 7654")
	}
	addresses = append(addresses, http...)
	s.policy(t, `metadata: {name: out, namespace: staff}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.7.1.0/24, except: [10.7.1.2/32]}}], ports: [{port: 7000, endPort: 7999}]}]}
`)
	s.asks(t, "a network without a part", map[string]corev1.Pod{from.Spec.NodeName: from}, addresses, func(a string) bool { return a == "10.7.1.1 7654" })
	if _, err := s.machines[0].Kubectl(nil, "delete", "networkpolicy", "-n", "staff", "out"); err != nil {
		t.Fatal(err)
	}
}

// firstPacket runs a pod that calls at once and all the time. No call may get out.
func (s *fleet) firstPacket(t *testing.T, http []string) {
	s.policy(t, "metadata: {name: shut, namespace: public}\nspec: {podSelector: {matchLabels: {app: hasty}}, policyTypes: [Egress]}\n")
	script := "for i in 1 2 3; do "
	for _, a := range http {
		script += fmt.Sprintf("(printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 1 %s) & ", a)
	}
	pod := shellPod("hasty", script+"wait; done; echo over", "")
	pod.Namespace, pod.Labels, pod.Spec.RestartPolicy = "public", map[string]string{"app": "hasty"}, corev1.RestartPolicyNever
	if _, err := s.client.CoreV1().Pods("public").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the hasty pod to end", func(ctx context.Context) error {
		p, err := s.client.CoreV1().Pods("public").Get(ctx, "hasty", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("it is %s", p.Status.Phase)
		}
		return err
	})
	machine.Wait(t, "what the hasty pod said", func(ctx context.Context) error {
		out, err := s.client.CoreV1().Pods("public").GetLogs("hasty", &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return err
		}
		if strings.Contains(string(out), "hello") {
			t.Errorf("it reached a server: %q", out)
			return nil
		}
		if !strings.Contains(string(out), "over") {
			return fmt.Errorf("it said %q", out)
		}
		return nil
	})
}

// repairPolicies removes the tables, and the process that keeps them.
func (s *fleet) repairPolicies(t *testing.T, denied, allowed map[string]corev1.Pod, http []string) {
	if n, err := policyTables(s.machines[0], true); err != nil || n == 0 {
		t.Errorf("%d tables were there: %v", n, err)
	}
	machine.Wait(t, "the tables to be back", func(context.Context) error {
		n, err := policyTables(s.machines[0], false)
		if err == nil && n == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	s.asks(t, "after the tables were gone", denied, http, noAddress)
	s.asks(t, "after the tables were gone", allowed, http, everyAddress)
	if err := s.machines[2].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The pods of the node without a process are asked for from others: kubectl exec does not reach them.
	others := map[string]corev1.Pod{"stage-0": denied["stage-0"], "stage-1": denied["stage-1"]}
	s.asks(t, "with a node's process killed", others, http, noAddress)
	if err := s.machines[2].Begin("node stage-2 of the cluster at "); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "after the process is back", allowed, http, everyAddress)
	s.asks(t, "after the process is back", denied, http, noAddress)
}

// clusterKind is what the cluster needs to know of the kind. Its own definition, from the network policy API's project, has every field.
const clusterKind = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: clusternetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: unapproved}
spec:
  group: policy.networking.k8s.io
  names: {kind: ClusterNetworkPolicy, plural: clusternetworkpolicies, singular: clusternetworkpolicy, shortNames: [cnp]}
  scope: Cluster
  versions:
  - name: v1alpha2
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// clusterPolicies come with their kind, and go with it. The namespaces have policies of their own.
func (s *fleet) clusterPolicies(t *testing.T, public, staff map[string]corev1.Pod, both []string) {
	if _, err := s.machines[0].Kubectl(strings.NewReader(clusterKind), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a policy of the new kind", func(context.Context) error {
		_, err := s.machines[0].Kubectl(strings.NewReader(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: doors}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}
  ingress:
  - {action: Deny, from: [{namespaces: {matchLabels: {team: staff}}}]}
  - action: Accept
    from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: public}}}]
    protocols: [{tcp: {destinationPort: {number: 9090}}}]
`), "apply", "-f", "-")
		return err
	})
	if _, err := s.machines[0].Kubectl(nil, "wait", "clusternetworkpolicy/doors", "--for=condition=Accepted", "--timeout", patience.String()); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "before what the namespace allows", staff, both, noAddress)
	s.asks(t, "before what the namespace denies", public, both, func(a string) bool { return strings.HasSuffix(a, " 9090") })
	if _, err := s.machines[0].Kubectl(nil, "delete", "crd", "clusternetworkpolicies.policy.networking.k8s.io"); err != nil {
		t.Fatal(err)
	}
	s.asks(t, "after the kind is gone", staff, both, func(a string) bool { return strings.HasSuffix(a, " 8080") })
	s.asks(t, "after the kind is gone", public, both, noAddress)
}
