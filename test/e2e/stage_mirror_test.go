package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// mirrors is a mirror on each node, and a service over UDP in front of them. The other three are on one node, with one port of it.
const mirrors = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: mirrors, namespace: default}
spec:
  selector: {matchLabels: {app: mirrors}}
  template:
    metadata: {labels: {app: mirrors}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "mirror:1", readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}}
---
apiVersion: v1
kind: Service
metadata: {name: mirrors, namespace: default}
spec: {selector: {app: mirrors}, ports: [{port: 81, protocol: UDP, targetPort: 8081}]}
---
apiVersion: v1
kind: Pod
metadata: {name: loopback, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: stage-1}
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "mirror:1", ports: [{containerPort: 8080, hostPort: 24323, protocol: TCP, hostIP: 127.0.0.1}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: address, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: stage-1}
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "mirror:1", ports: [{containerPort: 8080, hostPort: 24323, protocol: TCP, hostIP: 10.7.1.2}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: protocol, namespace: default}
spec:
  nodeSelector: {kubernetes.io/hostname: stage-1}
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "mirror:1", ports: [{containerPort: 8081, hostPort: 24323, protocol: UDP, hostIP: 10.7.1.2}]}]
`

// datagrams go between pods, nodes and a service of all nodes; one port of a node leads to three pods, by address and protocol.
func (s *fleet) datagrams(t *testing.T) {
	for _, m := range s.machines {
		giveMirror(t, m)
	}
	if out, err := s.machines[0].Kubectl(strings.NewReader(mirrors), "apply", "-f", "-"); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	var pods []corev1.Pod
	machine.Wait(t, "a mirror on each node", func(ctx context.Context) error {
		l, err := s.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=mirrors"})
		if err != nil {
			return err
		}
		pods = l.Items
		for i := range pods {
			if conditionOf(&pods[i], corev1.PodReady).Status != corev1.ConditionTrue {
				return fmt.Errorf("pod %s is not ready", pods[i].Name)
			}
		}
		if len(pods) != len(s.machines) {
			return fmt.Errorf("%d mirrors", len(pods))
		}
		return nil
	})
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "mirrors", metav1.GetOptions{})
	fine(t, err)
	for i := range pods {
		from := &pods[i]
		t.Run(from.Spec.NodeName, func(t *testing.T) {
			for j := range pods {
				to := &pods[j]
				machine.Wait(t, "an answer of "+to.Name+" over UDP", func(context.Context) error {
					out, err := s.machines[0].Kubectl(nil, "exec", from.Name, "--", "/bin/mirror", "-ask", to.Status.PodIP+":8081")
					if err == nil && strings.TrimSpace(out) != to.Name {
						err = fmt.Errorf("it says %q", out)
					}
					return err
				})
			}
			machine.Wait(t, "answers of all, itself too, by their service", func(context.Context) error {
				out, err := s.machines[0].Kubectl(nil, "exec", from.Name, "--", "/bin/mirror", "-ask", svc.Spec.ClusterIP+":81", "-times", "6")
				for j := range pods {
					if err == nil && !strings.Contains(out, pods[j].Name) {
						err = fmt.Errorf("not of %s: %s", pods[j].Name, out)
					}
				}
				return err
			})
		})
	}
	t.Run("from a node", func(t *testing.T) {
		for j := range pods {
			s.mirrored(t, s.machines[0], "udp", pods[j].Status.PodIP+":8081", pods[j].Name)
		}
	})
	t.Run("one port of a node", func(t *testing.T) {
		s.mirrored(t, s.machines[1], "tcp", "127.0.0.1:24323", "loopback")
		for _, m := range s.machines[:2] {
			s.mirrored(t, m, "tcp", "10.7.1.2:24323", "address")
			s.mirrored(t, m, "udp", "10.7.1.2:24323", "protocol")
		}
	})
	if out, err := s.machines[0].Kubectl(nil, "delete", "daemonset/mirrors", "service/mirrors", "pod/loopback", "pod/address", "pod/protocol"); err != nil {
		t.Errorf("%s, %v", out, err)
	}
}

// mirrored waits until a mirror with that name answers a machine.
func (s *fleet) mirrored(t *testing.T, from *machine.Machine, network, address, want string) {
	t.Helper()
	machine.Wait(t, fmt.Sprintf("%s at %s/%s", want, address, network), func(ctx context.Context) error {
		var got string
		var err error
		if network == "udp" {
			got, err = askMirror(ctx, from, address)
		} else {
			got, err = fetchMirror(ctx, from, address)
		}
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("it says %q", got)
		}
		return err
	})
}

func askMirror(ctx context.Context, from *machine.Machine, address string) (string, error) {
	c, err := from.NS.Dial(ctx, "udp", address)
	if err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	_, err = c.Write([]byte("who are you?"))
	err = errors.Join(err, c.SetReadDeadline(time.Now().Add(2*time.Second))) // then it is asked again
	n := 0
	if err == nil {
		n, err = c.Read(buf)
	}
	return string(buf[:n]), errors.Join(err, c.Close())
}

func fetchMirror(ctx context.Context, from *machine.Machine, address string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return from.NS.Dial(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(resp.Body)
	return string(text), errors.Join(err, resp.Body.Close())
}
