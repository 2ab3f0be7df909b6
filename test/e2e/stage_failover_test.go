package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// etcdOn starts an etcd at an address of a namespace.
func etcdOn(t *testing.T, ns *machine.NetNS, host string) (endpoint string) {
	t.Helper()
	dir := t.TempDir()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = filepath.Join(dir, "etcd"), "fatal", []string{filepath.Join(dir, "etcd.log")}
	client, peer := url.URL{Scheme: "http", Host: net.JoinHostPort(host, "2379")}, url.URL{Scheme: "http", Host: net.JoinHostPort(host, "2380")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false // it would dial itself from outside of the namespace
	var etcd *embed.Etcd
	if err := ns.Do(func() (err error) {
		etcd, err = embed.StartEtcd(cfg)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(patience):
		t.Fatal("etcd does not start")
	}
	return client.String()
}

// TestFailover: two servers on one etcd, and an agent behind a router that knows both. The one that it speaks to is killed.
func TestFailover(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	etcd := etcdOn(t, s.router, "10.7.1.254")
	defer func() { // before etcd
		for _, m := range s.machines {
			if m.Pid() != 0 {
				if err := m.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	args := []string{"--etcd-servers", etcd, "--cluster-cidr", onePods, "--service-cidr", oneServices}
	if err := s.machines[0].Start(args...); err != nil {
		t.Fatal(err)
	}
	// The servers share their keys, as docs/operations.md says.
	if err := os.MkdirAll(s.machines[1].DataDir, 0o711); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(s.machines[0].DataDir, "pki"), s.machines[1].DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := s.machines[0].Celox("token", "create"); err != nil {
		t.Fatal(err)
	} else {
		s.token = strings.TrimSpace(out)
	}
	if err := s.machines[1].Start(args...); err != nil {
		t.Fatal(err)
	}
	agent := s.machines[2]
	if err := agent.StartAgent("--server", stageServer+",https://10.7.1.2:6443", "--token", s.token); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = s.machines[1].Client(); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, agent)
	machine.Wait(t, "all nodes, by the other server", func(ctx context.Context) error {
		_, err := s.nodes(ctx, 3)
		return err
	})
	pid := agent.Pid()
	s.serve(t, "before", agent)

	if err := s.machines[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	s.serve(t, "after", agent)
	t.Logf("pod, service and name without the server that was killed: after %v", time.Since(killed).Round(time.Millisecond))
	if out, err := s.machines[1].Kubectl(nil, "exec", "after", "--", "echo", "hello"); err != nil || out != "hello\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	// What one server does for all, the other does when the lease is over.
	if _, err := s.machines[1].Kubectl(nil, "create", "deployment", "web", "--image", busybox, "--replicas", "2", "--", "sleep", "100000"); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "a deployment", func(ctx context.Context) error {
		d, err := s.client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.Replicas != 2 {
			err = fmt.Errorf("%d pods", d.Status.Replicas)
		}
		return err
	})
	t.Logf("controllers: after %v", time.Since(killed).Round(time.Millisecond))
	if agent.Pid() != pid || pid == 0 {
		t.Error("the agent did not live through it")
	}
	// The first one comes back, and the second goes.
	if err := s.machines[0].Start(args...); err != nil {
		t.Fatal(err)
	}
	if err := s.machines[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	s.serve(t, "again", agent)
	if agent.Pid() != pid {
		t.Error("the agent did not live through it")
	}
}

// serve runs a pod on a machine, with a service and its endpoints, all of which need no controller, and waits until both and the name work there.
func (s *fleet) serve(t *testing.T, name string, on *machine.Machine) {
	t.Helper()
	ctx := t.Context()
	pod := shellPod(name, "mkdir -p /www; echo "+name+" >/www/index.html; exec httpd -f -p 8080 -h /www", "")
	mount := false
	pod.Spec.NodeName, pod.Spec.AutomountServiceAccountToken = "stage-2", &mount
	if _, err := s.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	svc, err := s.client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var address string
	machine.Wait(t, "pod "+name, func(ctx context.Context) error {
		p, err := s.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && (p.Status.PodIP == "" || p.Status.Phase != corev1.PodRunning) {
			err = fmt.Errorf("it is %s, with the address %q", p.Status.Phase, p.Status.PodIP)
		}
		if err == nil {
			address = p.Status.PodIP
		}
		return err
	})
	ready, port := true, int32(8080)
	if _, err := s.client.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "service "+name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return fetch(ctx, on, net.JoinHostPort(svc.Spec.ClusterIP, "80"), name)
	})
	names := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return on.NS.Dial(ctx, network, "169.254.20.10:53")
	}}
	machine.Wait(t, "name "+name, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		got, err := names.LookupHost(ctx, name+".default.svc.cluster.local.")
		if err == nil && !slices.Equal(got, []string{svc.Spec.ClusterIP}) {
			err = errors.New(strings.Join(got, " "))
		}
		return err
	})
}
