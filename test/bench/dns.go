package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	dnsMethod = "Questions for A over UDP, from 4 sockets on the machine to the node's DNS at 169.254.20.10, 32 of each under way, for 5 s, in turns for 100 names that were asked for " +
		"before: services, and names that a name server on loopback knows. Per core: answers by the CPU time of the cluster's processes. The time from question to answer is that of one " +
		"socket that asks every 0.1 ms. An endpoint: from just before a slice is written until an answer for the headless service has its address, 100 times."

	dnsServer   = "169.254.20.10:53"
	dnsUpstream = "127.0.0.1:5399"
	dnsNames    = 100
	dnsSockets  = 4
	dnsWindow   = 32
	dnsLoad     = 5 * time.Second
	dnsPace     = 100 * time.Microsecond
	dnsPaced    = 20_000
	dnsChanges  = 100
	// dnsLost is when a question has no answer any more.
	dnsLost = time.Second
)

func dnsFigures(ctx context.Context, b *bench) error {
	return b.onStage("dns", func(s *stage) error {
		client, err := s.Client()
		if err != nil {
			return err
		}
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		stop, err := s.otherNameServer()
		if err != nil {
			return err
		}
		defer stop()
		var inside, outside []string
		for i := range dnsNames {
			svc, err := client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("bench-", i)}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
			}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			inside = append(inside, svc.Name+"."+namespace+".svc.cluster.local.")
			outside = append(outside, fmt.Sprintf("host-%d.example.", i))
		}
		for _, part := range []struct {
			what   string
			names  []string
			target float64
		}{{"internal", inside, 100_000}, {"external", outside, 60_000}} {
			if err := s.dnsPart(ctx, b, part.what, part.names, part.target); err != nil {
				return fmt.Errorf("%s names: %w", part.what, err)
			}
		}
		return s.dnsChanges(ctx, b, client)
	}, "--dns-upstream", dnsUpstream)
}

// otherNameServer answers for every name, on the machine's loopback.
func (s *stage) otherNameServer() (stop func(), err error) {
	var c net.PacketConn
	if err := s.NS.Do(func() error {
		c, err = net.ListenPacket("udp", dnsUpstream)
		return err
	}); err != nil {
		return nil, err
	}
	srv := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)}}
		_ = w.WriteMsg(m) // who does not hear it asks again
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe() // until the socket is closed
	}()
	return func() {
		_ = c.Close()
		<-done
	}, nil
}

func question(name string) ([]byte, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, dns.TypeA)
	return q.Pack()
}

// dnsPart asks for names and says how many there were and how long they took.
func (s *stage) dnsPart(ctx context.Context, b *bench, what string, names []string, target float64) error {
	var questions [][]byte
	for _, n := range names {
		q, err := question(n)
		if err != nil {
			return err
		}
		questions = append(questions, q)
	}
	one, err := s.NS.Dial(ctx, "udp", dnsServer)
	if err != nil {
		return err
	}
	defer one.Close()
	for i, q := range questions {
		if err := until(ctx, func() error { return askOne(one, q, names[i]) }); err != nil {
			return err
		}
	}
	before, err := s.cluster.cpu()
	if err != nil {
		return err
	}
	var answered atomic.Int64
	errs := make([]error, dnsSockets)
	end := time.Now().Add(dnsLoad)
	var sockets sync.WaitGroup
	for i := range dnsSockets {
		c, err := s.NS.Dial(ctx, "udp", dnsServer)
		if err != nil {
			return err
		}
		sockets.Go(func() {
			defer c.Close()
			n, err := load(c.(*net.UDPConn), questions, end)
			answered.Add(n)
			errs[i] = err
		})
	}
	sockets.Wait()
	after, err := s.cluster.cpu()
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	n := float64(answered.Load())
	b.out.figure(figure{Name: what + " names", Value: n / (after - before).Seconds(), Unit: namesUnit, Target: target,
		Detail: fmt.Sprintf("per core; %s names/s in all with the clients on the same machine", number(n/dnsLoad.Seconds()))})
	times, lost, err := paced(one.(*net.UDPConn), questions)
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("p50 %s ms, of %d", number(milliseconds(quantile(times, 0.5))), len(times))
	if lost > 0 {
		detail += fmt.Sprintf(", %d had no answer", lost)
	}
	b.out.figure(figure{Name: what + " answer, p99", Value: milliseconds(quantile(times, 0.99)), Unit: "ms", Target: 1, Detail: detail})
	return nil
}

// until tries until it works or a minute is over.
func until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// askOne asks a question and expects an address.
func askOne(c net.Conn, q []byte, name string) error {
	m, err := exchange(c, q)
	if err == nil && len(m.Answer) == 0 {
		err = fmt.Errorf("%s: %s", name, dns.RcodeToString[m.Rcode])
	}
	return err
}

func exchange(c net.Conn, q []byte) (*dns.Msg, error) {
	if err := c.SetDeadline(time.Now().Add(dnsLost)); err != nil {
		return nil, err
	}
	if _, err := c.Write(q); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(buf[:n])
}

// load asks questions, so many at a time, until a point in time, and counts the answers.
func load(c *net.UDPConn, questions [][]byte, end time.Time) (int64, error) {
	p := ipv4.NewPacketConn(c)
	out, in := make([]ipv4.Message, dnsWindow), make([]ipv4.Message, dnsWindow)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 1500)}
		out[i].Buffers = make([][]byte, 1)
	}
	var answered int64
	next := 0
	for time.Now().Before(end) {
		for i := range out {
			out[i].Buffers[0] = questions[next%len(questions)]
			next++
		}
		for sent := 0; sent < len(out); {
			n, err := p.WriteBatch(out[sent:], 0)
			if err != nil {
				return answered, err
			}
			sent += n
		}
		if err := c.SetReadDeadline(time.Now().Add(dnsLost)); err != nil {
			return answered, err
		}
		for open := len(out); open > 0; {
			n, err := p.ReadBatch(in[:open], 0)
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				break // lost
			}
			if err != nil {
				return answered, err
			}
			open -= n
			answered += int64(n)
		}
	}
	return answered, nil
}

// paced asks at a steady pace and returns how long each answer took.
func paced(c *net.UDPConn, questions [][]byte) (times []time.Duration, lost int, err error) {
	if err := c.SetDeadline(time.Now().Add(dnsPaced*dnsPace + 10*time.Second)); err != nil {
		return nil, 0, err
	}
	var sent [1 << 16]atomic.Int64 // by identifier, in nanoseconds since begin
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 1500)
		for len(times) < dnsPaced {
			n, err := c.Read(buf)
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				break
			}
			if err != nil || n < 2 {
				done <- errors.Join(err, fmt.Errorf("an answer of %d bytes", n))
				return
			}
			times = append(times, time.Since(begin)-time.Duration(sent[uint16(buf[0])<<8|uint16(buf[1])].Load()))
		}
		done <- nil
	}()
	packet := make([]byte, 0, 512)
	for i := range dnsPaced {
		for time.Since(begin) < time.Duration(i)*dnsPace {
			time.Sleep(time.Duration(i)*dnsPace - time.Since(begin))
		}
		packet = append(packet[:0], questions[i%len(questions)]...)
		packet[0], packet[1] = byte(i>>8), byte(i)
		sent[uint16(i)].Store(int64(time.Since(begin)))
		if _, err := c.Write(packet); err != nil {
			return nil, 0, errors.Join(err, c.SetReadDeadline(time.Now()), <-done)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(dnsLost)); err != nil {
		return nil, 0, err
	}
	if err := <-done; err != nil {
		return nil, 0, err
	}
	slices.Sort(times)
	return times, dnsPaced - len(times), nil
}

// dnsChanges adds endpoints to a headless service and waits for each in its answers.
func (s *stage) dnsChanges(ctx context.Context, b *bench, client kubernetes.Interface) error {
	svc, err := client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	q, err := question(svc.Name + "." + namespace + ".svc.cluster.local.")
	if err != nil {
		return err
	}
	c, err := s.NS.Dial(ctx, "udp", dnsServer)
	if err != nil {
		return err
	}
	defer c.Close()
	slice, err := client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "headless-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}, AddressType: discoveryv1.AddressTypeIPv4,
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	addr := netip.MustParseAddr("10.99.0.0")
	var times []time.Duration
	for range dnsChanges {
		addr = addr.Next()
		next := slice.DeepCopy()
		next.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{addr.String()}}}
		begin := time.Now()
		if slice, err = client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return err
		}
		for {
			m, err := exchange(c, q)
			if err != nil {
				return err
			}
			if len(m.Answer) == 1 && m.Answer[0].(*dns.A).A.String() == addr.String() {
				break
			}
			if time.Since(begin) > time.Minute {
				return fmt.Errorf("%v is not in the answer: %v", addr, m)
			}
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	b.out.figure(figure{Name: "endpoint written to answered, p50", Value: milliseconds(quantile(times, 0.5)), Unit: "ms", Detail: "the write itself is in it"})
	b.out.figure(figure{Name: "endpoint written to answered, p99", Value: milliseconds(quantile(times, 0.99)), Unit: "ms"})
	return nil
}
