package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	ingressMethod = "The ingress of one node and Debian's nginx-light as a reverse proxy, in turn in one run, before the same backend (another nginx, which answers from memory or with " +
		"a file): 32 connections that stay, one request each at a time. CPU time of the proxy over the number of requests, medians of 3 rounds of 3 s; the target is nginx's figure over 0.8."

	ingressConnections = 32
	ingressRounds      = 3
	ingressRound       = 3 * time.Second
	ingressHost        = "bench.example"
	ingressAddress     = "10.99.0.1"
	ingressBackend     = 8081
	ingressRival       = 8082
	ingressLarge       = 100_000 // bytes of the file
)

// nginxes are the configurations of the backend and of the proxy that ours is compared with.
const nginxBackend = `
worker_processes 2; daemon off; pid %[1]s/backend.pid; error_log %[1]s/backend.log;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s:%[3]d; location / { return 200 "hello, world: this is a small answer\n"; } location /large { root %[1]s; } }
}
`

const nginxRival = `
worker_processes 2; daemon off; pid %[1]s/rival.pid; error_log %[1]s/rival.log;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path %[1]s/f; proxy_temp_path %[1]s/g; fastcgi_temp_path %[1]s/h; uwsgi_temp_path %[1]s/i; scgi_temp_path %[1]s/j;
  upstream backend { server %[2]s:%[3]d; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen %[2]s:%[4]d;
    location / {
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
    }
  }
}
`

// proxies is what the scenario compares.
type proxies struct {
	stage *stage
	dir   string
	rival int // process
}

func ingressScenario(ctx context.Context, b *bench) error {
	if _, err := exec.LookPath("nginx"); err != nil {
		return errors.New("nginx is not installed: scripts/deps.sh bench")
	}
	segment, err := machine.NewSegment()
	if err != nil {
		return err
	}
	defer func() { _ = segment.Close() }() // nothing is in it any more
	dir, err := os.MkdirTemp("", "celox-bench-nginx-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the directory of the system's temporary files
	return b.onStage("ingress", func(s *stage) (err error) {
		if err := segment.Plug(s.NS, machine.Interface, netip.MustParsePrefix(ingressAddress+"/24")); err != nil {
			return err
		}
		p := &proxies{stage: s, dir: dir}
		for name, text := range map[string]string{
			"backend": fmt.Sprintf(nginxBackend, dir, ingressAddress, ingressBackend), "rival": fmt.Sprintf(nginxRival, dir, ingressAddress, ingressBackend, ingressRival),
			"large": strings.Repeat("x", ingressLarge),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return err
			}
		}
		if err := os.Chmod(dir, 0o755); err != nil { // nginx's workers are nobody
			return err
		}
		for _, name := range []string{"backend", "rival"} {
			cmd := s.Command("nginx", "-c", filepath.Join(dir, name))
			if err := s.NS.Start(cmd); err != nil {
				return err
			}
			defer func() {
				err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
				_ = cmd.Wait() // it was asked to end
			}()
			p.rival = cmd.Process.Pid
		}
		if err := p.makeIngress(ctx); err != nil {
			return err
		}
		for _, kind := range []struct{ name, path string }{{"small answers", "/"}, {"100 kB", "/large"}} {
			if err := p.compare(ctx, b, kind.name, kind.path); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeIngress makes an Ingress before the backend and waits until it works.
func (p *proxies) makeIngress(ctx context.Context) error {
	client, err := p.stage.Client()
	if err != nil {
		return err
	}
	const name = "bench"
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name}
	port, prefix := int32(ingressBackend), networkingv1.PathTypePrefix
	if _, err := client.CoreV1().Services(meta.Namespace).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: port}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ingressAddress}}}, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	if _, err := client.DiscoveryV1().EndpointSlices(meta.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return err
	}
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: port}}}
	rule := networkingv1.IngressRule{Host: ingressHost}
	rule.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: backend}}}
	if _, err := client.NetworkingV1().Ingresses(meta.Namespace).Create(ctx, &networkingv1.Ingress{ObjectMeta: meta, Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{rule}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, _, err := p.load(ctx, 80, "/", 1, time.Millisecond)
		if err == nil {
			_, _, err = p.load(ctx, ingressRival, "/", 1, time.Millisecond)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the ingress does not work: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// round is what one round has shown of one proxy.
type round struct{ perSecond, cpu, p50, p99 float64 }

// compare reports both proxies for one kind of request.
func (p *proxies) compare(ctx context.Context, b *bench, name, path string) error {
	b.say("ingress: %s", name)
	cpus := map[int]func() (time.Duration, error){80: p.stage.cluster.cpu, ingressRival: cluster{pid: p.rival, dataDir: filepath.Join(p.dir, "rival")}.cpu}
	rounds := map[int][]round{}
	for range ingressRounds {
		for _, port := range []int{ingressRival, 80} {
			before, err := cpus[port]()
			if err != nil {
				return err
			}
			begin := time.Now()
			n, times, err := p.load(ctx, port, path, ingressConnections, ingressRound)
			if err != nil {
				return err
			}
			took := time.Since(begin)
			after, err := cpus[port]()
			if err != nil {
				return err
			}
			slices.Sort(times)
			rounds[port] = append(rounds[port], round{
				perSecond: float64(n) / took.Seconds(), cpu: float64((after - before).Microseconds()) / float64(n),
				p50: float64(times[len(times)/2].Microseconds()), p99: float64(times[len(times)*99/100].Microseconds()),
			})
		}
	}
	median := func(port int, of func(round) float64) float64 {
		var all []float64
		for _, r := range rounds[port] {
			all = append(all, of(r))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	const share = 0.8
	for _, f := range []struct {
		name, unit string
		of         func(round) float64
	}{{"CPU", "us", func(r round) float64 { return r.cpu }}, {"p99", "us", func(r round) float64 { return r.p99 }}, {"p50", "us", func(r round) float64 { return r.p50 }}} {
		ours, theirs := median(80, f.of), median(ingressRival, f.of)
		b.out.figure(figure{
			Name: name + ": " + f.name, Value: ours, Unit: f.unit, Target: theirs / share,
			Detail: fmt.Sprintf("nginx %s; %.0f requests/s, nginx %.0f", number(theirs), median(80, func(r round) float64 { return r.perSecond }), median(ingressRival, func(r round) float64 { return r.perSecond })),
		})
	}
	return nil
}

// load asks on several connections for a while. It returns how often, and how long each took.
func (p *proxies) load(ctx context.Context, port int, path string, connections int, long time.Duration) (int, []time.Duration, error) {
	request := "GET " + path + " HTTP/1.1\r\nHost: " + ingressHost + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	end := time.Now().Add(long)
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	var workers sync.WaitGroup
	for range connections {
		workers.Go(func() {
			times, err := p.ask(ctx, port, request, end)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, times...)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	workers.Wait()
	return len(all), all, errors.Join(errs...)
}

// ask asks on one connection, at least once.
func (p *proxies) ask(ctx context.Context, port int, request string, end time.Time) (times []time.Duration, err error) {
	c, err := p.stage.NS.Dial(ctx, "tcp", net.JoinHostPort(ingressAddress, strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	r := bufio.NewReaderSize(c, 64<<10)
	for ctx.Err() == nil {
		begin := time.Now()
		if _, err := io.WriteString(c, request); err != nil {
			return times, err
		}
		if err := skipAnswer(r); err != nil {
			return times, err
		}
		now := time.Now()
		if times = append(times, now.Sub(begin)); now.After(end) {
			break
		}
	}
	return times, ctx.Err()
}

// skipAnswer reads an answer of 200 with a length. It is no parser: a client that costs much would be what is measured.
func skipAnswer(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(string(line), "HTTP/1.1 200") {
			return fmt.Errorf("got %q", line)
		}
		if len(line) <= 2 {
			break
		}
		const name = "content-length: "
		if len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without a length")
	}
	_, err := r.Discard(length)
	return err
}
