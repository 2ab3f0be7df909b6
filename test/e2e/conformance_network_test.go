package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// named is a deployment of pods that say their names on port 8080. (busybox has nothing for UDP: internal/network/proxy asks over it.)
func named(name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: %[3]s
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
`, name, replicas, busybox)
}

// client is a pod to ask from.
type client struct {
	*stage
	pod string
}

func (s *stage) newClient() client {
	s.run("client", `containers: [{name: c, image: IMAGE, command: [sleep, "3600"]}]`)
	s.ready("client")
	return client{s, "client"}
}

// sh runs a shell command in the pod and returns what it prints, errors included; its exit code is the last line.
func (c client) sh(command string) string {
	return c.kubectl("exec", c.pod, "--", "sh", "-c", command+" 2>&1; echo $?")
}

// fetches fetches a page until all of want have been seen, and never another.
func (c client) fetches(url string, want ...string) {
	c.t.Helper()
	seen := map[string]bool{}
	c.until(fmt.Sprintf("%s to be answered by %v", url, want), func() (string, error) {
		for who := range strings.FieldsSeq(strings.TrimSuffix(c.sh(fmt.Sprintf("for i in 1 2 3 4 5 6 7 8; do wget -q -O - %s; done", url)), "0\n")) {
			if !slices.Contains(want, who) {
				return who, nil // what somebody before, or an error, says
			}
			seen[who] = true
		}
		if len(seen) < len(want) {
			return fmt.Sprint(seen), nil
		}
		return "", nil
	})
}

// resolves asks for a name until the answer is these addresses.
func (c client) resolves(name string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	c.until(fmt.Sprintf("%s to be %v", name, want), func() (string, error) {
		var got []string
		out := c.sh("nslookup -type=a " + name)
		_, answer, _ := strings.Cut(out, "\n\n") // behind who answers
		for line := range strings.Lines(answer) {
			if a, ok := strings.CutPrefix(strings.TrimSpace(line), "Address: "); ok {
				got = append(got, a)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return out, nil
		}
		return "", nil
	})
}

// podsOf are the names and addresses of ready pods.
func (s *stage) podsOf(app string, n int) (names, ips []string) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d pods of %s", n, app), func() (string, error) {
		names, ips = nil, nil
		list, err := s.c.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp == nil && conditionOf(p, corev1.PodReady).Status == corev1.ConditionTrue {
				names, ips = append(names, p.Name), append(ips, p.Status.PodIP)
			}
		}
		if len(names) != n || len(list.Items) != n {
			return fmt.Sprint(names), nil
		}
		return "", nil
	})
	return names, ips
}

func (s *stage) service(name string, spec corev1.ServiceSpec) *corev1.Service {
	s.t.Helper()
	svc, err := s.c.CoreV1().Services(s.ns).Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	fine(s.t, err)
	return svc
}

// port is a service port that leads to 8080.
func port(name string, number int32, protocol corev1.Protocol) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: number, Protocol: protocol, TargetPort: intstr.FromInt32(8080)}
}

// TestConformanceServices: what leads to pods, and how it changes.
func TestConformanceServices(t *testing.T) {
	s := newStage(t)
	s.apply(named("web", 2))
	c := s.newClient()
	names, _ := s.podsOf("web", 2)
	selector := map[string]string{"app": "web"}

	// One port number, two protocols, from pods and from the machine, by address and by name.
	both := s.service("both", corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Selector: selector, Ports: []corev1.ServicePort{port("tcp", 80, corev1.ProtocolTCP), port("udp", 80, corev1.ProtocolUDP)},
	})
	c.fetches("http://"+both.Spec.ClusterIP, names...)
	c.fetches("http://both", names...)
	c.fetches("http://both."+s.ns+".svc.cluster.local", names...)
	nodeIP := s.nodeIP()
	c.fetches(fmt.Sprintf("http://%s:%d", nodeIP, both.Spec.Ports[0].NodePort), names...)
	for _, address := range []string{both.Spec.ClusterIP + ":80", fmt.Sprintf("%s:%d", nodeIP, both.Spec.Ports[0].NodePort)} {
		s.reachable(address)
		if page := strings.TrimSpace(s.fetch("http://" + address)); !slices.Contains(names, page) {
			t.Errorf("%s says %q to the machine", address, page)
		}
	}
	c.resolves("both", both.Spec.ClusterIP)

	// Two ports, each its own way.
	s.service("ports", corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{port("a", 80, corev1.ProtocolTCP), port("b", 81, corev1.ProtocolTCP)}})
	c.fetches("http://ports:81", names...)
	c.fetches("http://ports:80", names...)

	// Pods come and go.
	s.kubectl("scale", "deployment", "web", "--replicas=1")
	names, _ = s.podsOf("web", 1)
	c.fetches("http://both", names...)
	s.kubectl("scale", "deployment", "web", "--replicas=2")
	names, ips := s.podsOf("web", 2)
	c.fetches("http://both", names...)

	// Without an address of its own, the name is the pods'.
	s.service("headless", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: selector, Ports: []corev1.ServicePort{port("", 8080, corev1.ProtocolTCP)}})
	c.resolves("headless", ips...)
	s.until("an answer by the name of a part of the path", func() (string, error) {
		// The C library asks the same pod again and again.
		if out := strings.Fields(c.sh("wget -q -O - http://headless." + s.ns + ".svc:8080")); len(out) != 2 || !slices.Contains(names, out[0]) {
			return fmt.Sprint(out), nil
		}
		return "", nil
	})

	// Nobody there is said at once, and there is nobody any more who was.
	s.service("nobody", corev1.ServiceSpec{Selector: map[string]string{"app": "nobody"}, Ports: []corev1.ServicePort{port("", 80, corev1.ProtocolTCP)}})
	s.until("a refusal", func() (string, error) {
		if out := c.sh("wget -q -O - http://nobody"); !strings.Contains(out, "refused") {
			return out, nil
		}
		return "", nil
	})
	// The API server is a service as others.
	if out := c.sh("nc -w 60 kubernetes.default 443 </dev/null"); out != "0\n" {
		t.Errorf("kubernetes.default: %s", out)
	}
	s.until("the proxy of the API server", func() (string, error) {
		page, err := s.c.CoreV1().Services(s.ns).ProxyGet("http", "both", "tcp", "/", nil).DoRaw(s.ctx)
		if err == nil && !slices.Contains(names, strings.TrimSpace(string(page))) {
			return string(page), nil
		}
		return "", err
	})
}

// nodeIP is the address of the node that is not on loopback, by which pods reach it, or that of the pods' gateway.
func (s *stage) nodeIP() string {
	s.t.Helper()
	nodes, err := s.c.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{})
	fine(s.t, err)
	for _, a := range nodes.Items[0].Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && !ip.IsLoopback() {
			return ip.String()
		}
	}
	_, subnet, err := net.ParseCIDR(nodes.Items[0].Spec.PodCIDR)
	fine(s.t, err)
	return netip.MustParseAddr(subnet.IP.String()).Next().String()
}

// TestConformanceServiceChanges: affinity is switched, types change into others.
func TestConformanceServiceChanges(t *testing.T) {
	s := newStage(t)
	s.apply(named("web", 2))
	c := s.newClient()
	names, _ := s.podsOf("web", 2)
	services := s.c.CoreV1().Services(s.ns)
	selector := map[string]string{"app": "web"}
	patch := func(name, body string) *corev1.Service {
		t.Helper()
		svc, err := services.Patch(s.ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		fine(t, err)
		return svc
	}
	for _, kind := range []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort} {
		name := "faithful-" + strings.ToLower(string(kind))
		svc := s.service(name, corev1.ServiceSpec{
			Type: kind, Selector: selector, SessionAffinity: corev1.ServiceAffinityClientIP, Ports: []corev1.ServicePort{port("", 80, corev1.ProtocolTCP)},
		})
		url := "http://" + svc.Spec.ClusterIP
		if kind == corev1.ServiceTypeNodePort {
			url = fmt.Sprintf("http://%s:%d", s.nodeIP(), svc.Spec.Ports[0].NodePort)
		}
		// Faithful once the service is known; before it was, nobody answered.
		s.until("twenty answers of one pod", func() (string, error) {
			out := c.sh("for i in $(seq 20); do wget -q -O - " + url + "; done")
			if lines := strings.Fields(out); len(lines) == 21 && len(slices.Compact(lines[:20])) == 1 && slices.Contains(names, lines[0]) {
				return "", nil
			}
			return out, nil
		})
		patch(name, `{"spec":{"sessionAffinity":"None"}}`)
		c.fetches(url, names...)
		patch(name, `{"spec":{"sessionAffinity":"ClientIP"}}`)
		s.until("faith again", func() (string, error) {
			out := c.sh("for i in $(seq 20); do wget -q -O - " + url + "; done")
			if lines := strings.Fields(out); len(lines) == 21 && len(slices.Compact(lines[:20])) == 1 {
				return "", nil
			}
			return out, nil
		})
	}

	// ExternalName is another name for something, here for a service.
	target := s.service("target", corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{port("", 80, corev1.ProtocolTCP)}})
	s.service("other", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "target." + s.ns + ".svc.cluster.local"})
	c.resolves("other", target.Spec.ClusterIP)
	c.fetches("http://other", names...)
	changed := patch("other", `{"spec":{"type":"NodePort","externalName":null,"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}}`)
	c.resolves("other", changed.Spec.ClusterIP)
	c.fetches(fmt.Sprintf("http://%s:%d", s.nodeIP(), changed.Spec.Ports[0].NodePort), names...)
	changed = patch("other", `{"spec":{"type":"ClusterIP","ports":[{"port":80,"targetPort":8080,"nodePort":null}]}}`)
	if changed.Spec.Ports[0].NodePort != 0 {
		t.Errorf("%+v", changed.Spec)
	}
	c.fetches("http://other", names...)
	patch("other", `{"spec":{"type":"ExternalName","externalName":"target.`+s.ns+`.svc.cluster.local","clusterIP":null,"clusterIPs":null,"selector":null}}`)
	c.resolves("other", target.Spec.ClusterIP)
}

// TestConformanceNames: the names of pods, what is in their files, and how these can be told to be otherwise.
func TestConformanceNames(t *testing.T) {
	s := newStage(t)
	s.service("sub", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"name": "host"}, Ports: []corev1.ServicePort{port("http", 80, corev1.ProtocolTCP)}})
	host := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "host", Labels: map[string]string{"name": "host"}}}
	host.Spec = *read[corev1.PodSpec](t, `
hostname: first
subdomain: sub
containers: [{name: c, image: `+busybox+`, command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]}]`)
	s.create(host)
	c := s.newClient()
	ip := s.ready("host").Status.PodIP
	full := "first.sub." + s.ns + ".svc.cluster.local"
	c.resolves(full, ip)
	c.fetches("http://first.sub:8080", "first")
	c.resolves("sub", ip)
	dashed := strings.ReplaceAll(ip, ".", "-") + "." + s.ns + ".pod.cluster.local"
	c.resolves(dashed, ip)
	c.fetches("http://"+full+":8080", "first")
	s.says(full, "exec", "host", "--", "cat", "/etc/hosts")
	s.says(full, "exec", "host", "--", "hostname", "-f")
	s.until("the name of the address", func() (string, error) {
		if out := c.sh("nslookup " + ip); !strings.Contains(out, full) {
			return out, nil
		}
		return "", nil
	})
	s.until("the service's port", func() (string, error) {
		out := c.sh("nslookup -type=srv _http._tcp.sub." + s.ns + ".svc.cluster.local")
		if !strings.Contains(out, "8080") || !strings.Contains(out, full) {
			return out, nil
		}
		return "", nil
	})

	s.run("own", `
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.1], searches: [here.example], options: [{name: ndots, value: "2"}]}
restartPolicy: Never
containers: [{name: c, image: IMAGE, command: [cat, /etc/resolv.conf]}]`)
	s.prints("own", "search here.example", "nameserver 192.0.2.1", "options ndots:2")
}

// TestConformanceMirroring: Endpoints that somebody writes for a service without a selector are in its slices, and lead where they say.
func TestConformanceMirroring(t *testing.T) {
	s := newStage(t)
	s.service("by-hand", corev1.ServiceSpec{Ports: []corev1.ServicePort{port("http", 80, corev1.ProtocolTCP)}})
	endpoints := s.c.CoreV1().Endpoints(s.ns)
	subset := func(ip string, number int32) []corev1.EndpointSubset {
		return []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}, Ports: []corev1.EndpointPort{{Name: "http", Port: number, Protocol: corev1.ProtocolTCP}}}}
	}
	// mirrors waits until the slices of the service are as many as addresses, and have them.
	mirrors := func(number int32, addresses ...string) {
		t.Helper()
		s.until(fmt.Sprintf("slices of %v", addresses), func() (string, error) {
			list, err := s.c.DiscoveryV1().EndpointSlices(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=by-hand"})
			if err != nil {
				return "", err
			}
			var got []string
			for _, es := range list.Items {
				owner := metav1.GetControllerOf(&es)
				if es.Labels["endpointslice.kubernetes.io/managed-by"] != "endpointslicemirroring-controller.k8s.io" || owner == nil || owner.Kind != "Endpoints" {
					return fmt.Sprintf("a slice of %v, %v", es.Labels, owner), nil
				}
				if len(es.Ports) != 1 || *es.Ports[0].Port != number || len(es.Endpoints) != 1 {
					return fmt.Sprintf("a slice with %v, %v", es.Ports, es.Endpoints), nil
				}
				got = append(got, es.Endpoints[0].Addresses...)
			}
			if !slices.Equal(got, addresses) {
				return fmt.Sprint(got), nil
			}
			return "", nil
		})
	}
	made, err := endpoints.Create(s.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Subsets: subset("10.1.2.3", 8080)}, metav1.CreateOptions{})
	fine(t, err)
	mirrors(8080, "10.1.2.3")
	made.Subsets = subset("10.2.3.4", 8081)
	_, err = endpoints.Update(s.ctx, made, metav1.UpdateOptions{})
	fine(t, err)
	mirrors(8081, "10.2.3.4")
	fine(t, endpoints.Delete(s.ctx, "by-hand", metav1.DeleteOptions{}))
	mirrors(0)

	s.apply(named("web", 1))
	c := s.newClient()
	names, ips := s.podsOf("web", 1)
	_, err = endpoints.Create(s.ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Subsets: subset(ips[0], 8080)}, metav1.CreateOptions{})
	fine(t, err)
	c.fetches("http://by-hand", names...)
}

// TestConformanceEndpointLatency: a hundred services get their endpoint. How long it takes is measured elsewhere.
func TestConformanceEndpointLatency(t *testing.T) {
	s := newStage(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "end", Labels: map[string]string{"app": "end"}}}
	pod.Spec = *read[corev1.PodSpec](t, `containers: [{name: c, image: `+busybox+`, command: [sleep, "3600"]}]`)
	s.create(pod)
	ip := s.ready("end").Status.PodIP
	const services = 100
	for i := range services {
		s.service(fmt.Sprintf("latency-%d", i), corev1.ServiceSpec{Selector: map[string]string{"app": "end"}, Ports: []corev1.ServicePort{port("", 80, corev1.ProtocolTCP)}})
	}
	s.until("an endpoint of each service", func() (string, error) {
		slices, err := s.c.DiscoveryV1().EndpointSlices(s.ns).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		endpoints, err := s.c.CoreV1().Endpoints(s.ns).List(s.ctx, metav1.ListOptions{})
		if err != nil {
			return "", err
		}
		seen := map[string]int{}
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if e.Addresses[0] == ip && e.Conditions.Ready != nil && *e.Conditions.Ready {
					seen[slice.Labels["kubernetes.io/service-name"]]++
				}
			}
		}
		for _, e := range endpoints.Items {
			for _, subset := range e.Subsets {
				if len(subset.Addresses) == 1 && subset.Addresses[0].IP == ip {
					seen[e.Name]++
				}
			}
		}
		for i := range services {
			if name := fmt.Sprintf("latency-%d", i); seen[name] != 2 {
				return fmt.Sprintf("%s is seen %d times of 2", name, seen[name]), nil
			}
		}
		return "", nil
	})
}
