package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	servicesMethod = "10,000 services with an EndpointSlice of 5 endpoints each, created by 16 clients: from just before the first until the last one's address works. Then, " +
		"programming: from just before the nftables tables are removed until a new socket's packet to a service is answered, 5 times, which includes finding it out. " +
		"A change: the slice of a service names another endpoint; from just before it is written, and from when the write is answered, until a new socket's packet " +
		"is answered by that endpoint, 200 times. The first packet: a new UDP socket's packet to a service and back, on this machine and one with a single service in turns, " +
		"4,000 times each; 30,000 services and slices are there then."

	fewServices, manyServices = 10_000, 30_000
	endpointsOfEach           = 5
	programmings              = 5
	endpointChanges           = 200
	firstPackets, atOnce      = 4000, 200
	answerAfter               = 2 * time.Millisecond // when a packet counts as lost
	slicesPath                = "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices"
)

func services(ctx context.Context, b *bench) error {
	// A machine with one service beside that with many, so that both are measured at the same time.
	return b.onStage("services-one", func(one *stage) error {
		target, err := one.answering(ctx)
		if err != nil {
			return err
		}
		defer target.stop()
		return b.onStage("services", func(s *stage) error {
			return s.services(ctx, b, one, target)
		})
	})
}

func (s *stage) services(ctx context.Context, b *bench, one *stage, onlyOne *answerer) error {
	target, err := s.answering(ctx)
	if err != nil {
		return err
	}
	defer target.stop()
	cpu, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	last, err := s.manyServices(ctx, 0, fewServices, endpointsOfEach)
	if err != nil {
		return err
	}
	created := time.Since(begin)
	if err := s.works(ctx, last); err != nil {
		return err
	}
	working := time.Since(begin)
	after, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	b.out.figure(figure{Name: "10,000 services through the API", Value: working.Seconds(), Unit: "s",
		Detail: fmt.Sprintf("until the last works; the creates took %.1f s; %.2f ms CPU a service", created.Seconds(), milliseconds(after-cpu)/fewServices)})
	if err := s.programming(ctx, b, target); err != nil {
		return err
	}
	if err := s.changes(ctx, b, target); err != nil {
		return err
	}
	b.say("services: %d more", manyServices-fewServices)
	if last, err = s.manyServices(ctx, fewServices, manyServices, 1); err != nil {
		return err
	}
	if err := s.works(ctx, last); err != nil {
		return err
	}
	var many, few []time.Duration
	for range firstPackets / atOnce {
		for _, part := range []struct {
			s    *stage
			at   netip.AddrPort
			into *[]time.Duration
		}{{one, onlyOne.service, &few}, {s, target.service, &many}} {
			got, err := part.s.packets(part.at, atOnce)
			if err != nil {
				return err
			}
			*part.into = append(*part.into, got...)
		}
	}
	b.out.figure(figure{Name: "first packet, 30,000 to 1", Value: float64(quantile(many, 0.5)) / float64(quantile(few, 0.5)), Unit: "times", Target: 1.1,
		Detail: fmt.Sprintf("p50 %.1f and %.1f µs, p99 %.0f and %.0f", micros(many, 0.5), micros(few, 0.5), micros(many, 0.99), micros(few, 0.99))})
	return nil
}

// endpointAddr is the machine's, for this program.
func endpointAddr() netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, 1}) }

func micros(d []time.Duration, q float64) float64 { return float64(quantile(d, q).Nanoseconds()) / 1e3 }

// answerer is a service whose packets this program answers, on one of two ports of the machine.
type answerer struct {
	service netip.AddrPort
	ports   [2]int
	stop    func()
}

// answering makes the service, and what it leads to.
func (s *stage) answering(ctx context.Context) (*answerer, error) {
	client, err := s.Client()
	if err != nil {
		return nil, err
	}
	if err := s.client.makeNamespace(ctx); err != nil {
		return nil, err
	}
	if err := s.NS.Address("lo", netip.PrefixFrom(endpointAddr(), 32)); err != nil {
		return nil, err
	}
	a := &answerer{ports: [2]int{18081, 18082}}
	svc, err := client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "target"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolUDP}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return nil, err
	}
	a.service = netip.AddrPortFrom(ip, 80)
	var wg sync.WaitGroup
	var conns []net.PacketConn
	a.stop = func() {
		for _, c := range conns {
			_ = c.Close() // ends its goroutine
		}
		wg.Wait()
	}
	for i, port := range a.ports {
		var c net.PacketConn
		if err := s.NS.Do(func() (err error) {
			c, err = net.ListenPacket("udp4", fmt.Sprint("0.0.0.0:", port))
			return err
		}); err != nil {
			a.stop()
			return nil, err
		}
		conns = append(conns, c)
		wg.Go(func() {
			buf := make([]byte, 16)
			for {
				_, from, err := c.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = c.WriteTo([]byte{byte(i)}, from) // who does not hear it counts it as lost
				}
			}
		})
	}
	if _, err := s.client.do(ctx, 0, call{method: http.MethodPost, path: slicesPath, body: a.slice(0)}); err != nil {
		a.stop()
		return nil, err
	}
	if err := s.works(ctx, a.service); err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

// slice leads the service to one of the ports.
func (a *answerer) slice(port int) []byte {
	return endpointSlice("target", "target", "UDP", a.ports[port], endpointAddr().String())
}

func endpointSlice(name, service, protocol string, port int, addrs ...string) []byte {
	var endpoints []object
	for _, addr := range addrs {
		endpoints = append(endpoints, object{"addresses": []string{addr}, "conditions": object{"ready": true}})
	}
	return encode(object{
		"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
		"metadata":  object{"name": name, "labels": object{"kubernetes.io/service-name": service}},
		"endpoints": endpoints, "ports": []object{{"name": "", "port": port, "protocol": protocol}},
	})
}

// manyServices makes services and their endpoints, and returns the address of one that is made last and leads to this machine.
func (s *stage) manyServices(ctx context.Context, from, to, endpoints int) (netip.AddrPort, error) {
	err := parallel(ctx, clients, to-from, func(ctx context.Context, worker, i int) error {
		n := from + i
		name := fmt.Sprint("many-", n)
		var addrs []string
		for e := range endpoints {
			addrs = append(addrs, netip.AddrFrom4([4]byte{10, byte(100 + e), byte(n >> 8), byte(n)}).String())
		}
		if _, err := s.client.do(ctx, worker, call{method: http.MethodPost, path: slicesPath, body: endpointSlice(name, name, "TCP", 8080, addrs...)}); err != nil {
			return err
		}
		_, err := s.client.do(ctx, worker, call{method: http.MethodPost, path: inNamespace("services"), body: encode(object{
			"apiVersion": "v1", "kind": "Service", "metadata": object{"name": name}, "spec": object{"ports": []object{{"port": 80, "targetPort": 8080}}},
		})})
		return err
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	client, err := s.Client()
	if err != nil {
		return netip.AddrPort{}, err
	}
	name := fmt.Sprint("last-", to)
	svc, err := client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolUDP}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := s.client.do(ctx, 0, call{method: http.MethodPost, path: slicesPath, body: endpointSlice(name, name, "UDP", 18081, endpointAddr().String())}); err != nil {
		return netip.AddrPort{}, err
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	return netip.AddrPortFrom(ip, 80), err
}

// works waits until a service answers.
func (s *stage) works(ctx context.Context, at netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := s.answer(ctx, at, func(byte) bool { return true })
	return err
}

// answer sends packets, each from a new socket, until one has the answer that is wanted, and returns when it came.
func (s *stage) answer(ctx context.Context, at netip.AddrPort, good func(byte) bool) (when time.Time, err error) {
	err = s.NS.Do(func() error {
		for ctx.Err() == nil {
			got, _, err := packet(at)
			if err == nil && good(got) {
				when = time.Now()
				return nil
			}
		}
		return fmt.Errorf("%v: no answer: %w", at, context.Cause(ctx))
	})
	return when, err
}

// packets are how long it took to and fro, each from a new socket.
func (s *stage) packets(at netip.AddrPort, n int) (took []time.Duration, err error) {
	err = s.NS.Do(func() error {
		for len(took) < n {
			_, d, err := packet(at)
			switch {
			case errors.Is(err, unix.EAGAIN): // late on a busy machine; it is no answer of the kernel's
				took = append(took, answerAfter)
			case err != nil:
				return err
			default:
				took = append(took, d)
			}
		}
		return nil
	})
	return took, err
}

// packet sends one from a new socket, on the calling thread, and waits a little for the answer.
func packet(at netip.AddrPort) (answer byte, took time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: answerAfter.Microseconds()}); err != nil {
		return 0, 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	var buf [16]byte
	if _, err = unix.Write(fd, []byte("?")); err == nil {
		_, err = unix.Read(fd, buf[:])
	}
	return buf[0], time.Since(begin), err
}

// programming removes the tables and waits until they work again.
func (s *stage) programming(ctx context.Context, b *bench, target *answerer) error {
	cpu, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	var took []time.Duration
	for range programmings {
		begin := time.Now()
		if err := removeServiceTables(s.Machine); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		when, err := s.answer(limited, target.service, func(byte) bool { return true })
		cancel()
		if err != nil {
			return err
		}
		took = append(took, when.Sub(begin))
		if err := pause(ctx, time.Second); err != nil { // what the kernel still has to do with the old ones
			return err
		}
	}
	after, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	b.out.figure(figure{Name: "programming 10,000 services", Value: quantile(took, 0.5).Seconds(), Unit: "s", Target: 0.5, Upstream: 11,
		Detail: fmt.Sprintf("median of %d, %.2f to %.2f s; %.2f s CPU each", programmings, quantile(took, 0).Seconds(), quantile(took, 1).Seconds(), (after-cpu).Seconds()/programmings)})
	return nil
}

func removeServiceTables(m *machine.Machine) error {
	return m.NS.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if err != nil {
			return err
		}
		for _, t := range tables {
			if strings.HasPrefix(t.Name, "celox-services") {
				conn.DelTable(t)
			}
		}
		return conn.Flush()
	})
}

// changes writes a slice again and again, with the other endpoint.
func (s *stage) changes(ctx context.Context, b *bench, target *answerer) error {
	cpu, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	var sent, answered []time.Duration
	for i := range endpointChanges {
		port := (i + 1) % 2
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		written := make(chan error, 1)
		var done time.Time // before written is sent to
		begin := time.Now()
		go func() {
			_, err := s.client.do(limited, 0, call{method: http.MethodPut, path: slicesPath + "/target", body: target.slice(port)})
			done = time.Now()
			written <- err
		}()
		when, err := s.answer(limited, target.service, func(who byte) bool { return int(who) == port })
		err = errors.Join(err, <-written)
		cancel()
		if err != nil {
			return err
		}
		sent, answered = append(sent, when.Sub(begin)), append(answered, max(0, when.Sub(done)))
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	after, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	b.out.figure(figure{Name: "endpoint change, write answered", Value: milliseconds(quantile(answered, 0.5)), Unit: "ms", Target: 1, Upstream: 4,
		Detail: fmt.Sprintf("p50 of %d until a packet goes there; p99 %.1f", endpointChanges, milliseconds(quantile(answered, 0.99)))})
	b.out.figure(figure{Name: "endpoint change, write sent", Value: milliseconds(quantile(sent, 0.5)), Unit: "ms",
		Detail: fmt.Sprintf("p99 %.1f; %.2f ms CPU each", milliseconds(quantile(sent, 0.99)), milliseconds(after-cpu)/endpointChanges)})
	return nil
}
