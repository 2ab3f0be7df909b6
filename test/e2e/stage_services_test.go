package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/test/e2e/machine"
)

// proxyHealth is where load balancers ask whether a node wants packets.
const proxyHealth = 10256

// proxying looks at services more closely. The service "everywhere" and its pods are there.
func (s *fleet) proxying(t *testing.T) {
	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"the proxy's health", s.proxyHealth},
		{"traffic that stays near", s.near},
		{"tables that somebody removes come back", s.tablesReturn},
		{"node ports that are not to be had", s.nodePorts},
	} {
		t.Run(step.name, step.run)
	}
}

func (s *fleet) proxyHealth(t *testing.T) {
	for i, address := range []string{"10.7.1.1", "10.7.1.2", "10.7.2.3"} {
		machine.Wait(t, "the proxy on "+address, func(context.Context) error {
			_, err := s.get(i, fmt.Sprintf("http://%s:%d/healthz", address, proxyHealth))
			return err
		})
	}
}

// get asks from a machine, over a connection of its own.
func (s *fleet) get(from int, url string) (string, error) {
	client := s.machines[from].HTTP()
	client.Timeout = 10 * time.Second
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// introduce has each pod say its name at /cgi-bin/me.
func (s *fleet) introduce(t *testing.T, on map[string][]corev1.Pod) {
	t.Helper()
	for _, pods := range on {
		for _, p := range pods {
			if _, err := s.machines[0].Kubectl(nil, "exec", p.Name, "--", "sh", "-c",
				`printf '#!/bin/sh\necho; hostname\n' > /www/cgi-bin/me; chmod +x /www/cgi-bin/me`); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// answers waits until twenty calls from a machine have been answered by pods of these nodes only.
func (s *fleet) answers(t *testing.T, from int, url string, on map[string][]corev1.Pod, nodes ...string) {
	t.Helper()
	var names []string
	for _, n := range nodes {
		for _, p := range on[n] {
			names = append(names, p.Name)
		}
	}
	machine.Wait(t, fmt.Sprintf("pods on %v to answer machine %d", nodes, from), func(context.Context) error {
		for range 20 {
			who, err := s.get(from, url)
			if err != nil {
				return err
			}
			if !slices.Contains(names, who) {
				return fmt.Errorf("%q answers", who)
			}
		}
		return nil
	})
}

// near gives the service each traffic distribution (KEP-4444, KEP-3015): the controller of slices writes hints, and proxies follow them.
func (s *fleet) near(t *testing.T) {
	ctx := t.Context()
	on, err := s.running(ctx, 6)
	if err != nil {
		t.Fatal(err)
	}
	s.introduce(t, on)
	svc, err := s.client.CoreV1().Services("default").Get(ctx, "everywhere", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + svc.Spec.ClusterIP + "/cgi-bin/me"
	all := []string{"stage-0", "stage-1", "stage-2"}
	label := func(zones ...string) {
		t.Helper()
		for i, zone := range zones {
			patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, corev1.LabelTopologyZone, zone)
			if _, err := s.client.CoreV1().Nodes().Patch(ctx, all[i], types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	distribute := func(how string) {
		t.Helper()
		if _, err := s.client.CoreV1().Services("default").Patch(ctx, "everywhere", types.MergePatchType, []byte(`{"spec":{"trafficDistribution":`+how+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label(`"a"`, `"a"`, `"b"`)
	for _, how := range []string{"PreferClose", "PreferSameZone"} {
		distribute(`"` + how + `"`)
		s.hinted(t, func(h *discoveryv1.EndpointHints) bool { return len(h.ForZones) == 1 && len(h.ForNodes) == 0 })
		for i, nodes := range [][]string{all[:2], all[:2], all[2:]} {
			s.answers(t, i, url, on, nodes...)
		}
	}
	distribute(`"PreferSameNode"`)
	s.hinted(t, func(h *discoveryv1.EndpointHints) bool { return len(h.ForNodes) == 1 })
	for i := range all {
		s.answers(t, i, url, on, all[i])
	}
	distribute("null")
	s.hinted(t, nil)
	label("null", "null", "null")
	machine.Wait(t, "all pods to answer again", func(context.Context) error {
		seen := map[string]bool{}
		for range 100 {
			who, err := s.get(2, url)
			if err != nil {
				return err
			}
			if seen[who] = true; len(seen) == 6 {
				return nil
			}
		}
		return fmt.Errorf("only %v answer", seen)
	})
}

// hinted waits until all endpoints have hints that are good, or none of them if it is nil.
func (s *fleet) hinted(t *testing.T, good func(*discoveryv1.EndpointHints) bool) {
	t.Helper()
	machine.Wait(t, "hints", func(ctx context.Context) error {
		l, err := s.client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=everywhere"})
		if err != nil {
			return err
		}
		n := 0
		for _, slice := range l.Items {
			for _, ep := range slice.Endpoints {
				n++
				if (good == nil) != (ep.Hints == nil) || good != nil && !good(ep.Hints) {
					return fmt.Errorf("%v has %+v", ep.Addresses, ep.Hints)
				}
			}
		}
		if n != 6 {
			return fmt.Errorf("%d endpoints", n)
		}
		return nil
	})
}

// serviceTables are the tables of the service proxy on a machine; they are removed if that is wanted.
func (s *fleet) serviceTables(on int, remove bool) (int, error) {
	return tablesOf(s.machines[on], serviceTables, remove)
}

// serviceTables begin the names of the service proxy's tables.
const serviceTables = "celox-services-"

func (s *fleet) tablesReturn(t *testing.T) {
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "everywhere", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for on := range s.machines[:2] {
		if n, err := s.serviceTables(on, true); n == 0 || err != nil {
			t.Fatalf("machine %d had %d tables, %v", on, n, err)
		}
		machine.Wait(t, "the service after its tables were removed", func(context.Context) error {
			_, err := s.get(on, "http://"+svc.Spec.ClusterIP+"/cgi-bin/who")
			return err
		})
	}
}

// nodePorts asks for ports that it cannot have, and then for all.
func (s *fleet) nodePorts(t *testing.T) {
	ctx := t.Context()
	services := s.client.CoreV1().Services("default")
	of := func(name string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports}}
	}
	_, err := services.Create(ctx, of("outside", corev1.ServicePort{Port: 80, NodePort: 80}), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is not in the valid range. The range of valid ports is 30000-32767") {
		t.Errorf("a port outside: %v", err)
	}
	var many []corev1.ServicePort
	for i := range 400 {
		many = append(many, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(1 + i)})
	}
	var made []*corev1.Service
	defer func() {
		for _, svc := range made {
			if err := services.Delete(ctx, svc.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	}()
	full := false
	for i := 0; i < 10 && !full; i++ {
		svc, err := services.Create(ctx, of(fmt.Sprint("many-", i), many...), metav1.CreateOptions{})
		switch {
		case err == nil:
			made = append(made, svc)
		case strings.Contains(err.Error(), "failed to allocate a nodePort: range is full"):
			full = true
		default:
			t.Fatal(err)
		}
	}
	if !full || len(made) == 0 {
		t.Fatalf("%d services of 400 ports were made, and ports were left: %t", len(made), !full)
	}
	taken := made[0].Spec.Ports[0].NodePort
	_, err = services.Create(ctx, of("taken", corev1.ServicePort{Port: 80, NodePort: taken}), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a port that is taken: %v", err)
	}
}

// TestUserspaceProxy is a cluster of two machines on which no kernel has rules for services.
func TestUserspaceProxy(t *testing.T) {
	t.Parallel()
	s := newFleet(t)
	s.machines = s.machines[:2]
	if err := s.machines[0].Start("--service-cidr", "10.43.0.0/16", "--proxy-mode", "userspace"); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	out, err := s.machines[0].Celox("token", "create")
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(out)
	if !t.Run("two machines join", s.join) {
		return
	}
	if _, err := s.machines[0].Kubectl(strings.NewReader(everywhere), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	var on map[string][]corev1.Pod
	machine.Wait(t, "the pods", func(ctx context.Context) error {
		on, err = s.running(ctx, 6)
		return err
	})
	if _, err := s.machines[0].Kubectl(nil, "expose", "deployment", "everywhere", "--port", "80", "--target-port", "8080", "--type", "NodePort"); err != nil {
		t.Fatal(err)
	}
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "everywhere", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, address := range []string{"10.7.1.1", "10.7.1.2"} {
		if n, err := s.serviceTables(i, false); n != 0 || err != nil {
			t.Errorf("machine %d has %d tables of services, %v", i, n, err)
		}
		pod := on[fmt.Sprint("stage-", i)][0].Name
		for _, where := range []string{svc.Spec.ClusterIP + ":80", fmt.Sprintf("%s:%d", address, svc.Spec.Ports[0].NodePort)} {
			machine.Wait(t, fmt.Sprintf("the service at %s, from machine %d", where, i), func(context.Context) error {
				for from := range s.machines {
					if strings.HasPrefix(where, "10.43.") && from != i {
						continue
					}
					if _, err := s.get(from, "http://"+where+"/cgi-bin/who"); err != nil {
						return err
					}
				}
				return nil
			})
			host, port, _ := strings.Cut(where, ":")
			machine.Wait(t, fmt.Sprintf("the service at %s, from a pod on machine %d", where, i), func(context.Context) error {
				out, err := s.machines[0].Kubectl(nil, "exec", pod, "--", "sh", "-c", fmt.Sprintf("printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s %s | tail -n 1", host, port))
				if err == nil && !strings.HasPrefix(out, "10.") {
					err = fmt.Errorf("the answer is %q", out)
				}
				return err
			})
		}
		machine.Wait(t, "a name, from a pod", func(context.Context) error {
			_, err := s.machines[0].Kubectl(nil, "exec", pod, "--", "nslookup", "everywhere.default.svc.cluster.local.")
			return err
		})
		if body, err := s.get(i, fmt.Sprintf("http://%s:%d/healthz", address, proxyHealth)); err != nil {
			t.Errorf("health: %s, %v", body, err)
		}
	}
	// The agent that starts again has the same mode.
	if err := s.machines[1].Signal(15); err != nil {
		t.Fatal(err)
	}
	if err := s.machines[1].StartAgent(); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the service after a restart", func(context.Context) error {
		_, err := s.get(1, "http://"+svc.Spec.ClusterIP+"/cgi-bin/who")
		return err
	})
}
