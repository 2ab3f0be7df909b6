package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	podNetworkMethod = "One TCP stream between two pods of a node, with all rules in place, and one between two network namespaces with a pair of " +
		"interfaces and nothing else; 512 MiB each, in turns, 15 times; medians. Then the same with four streams at once, a quarter of it each, which keep both hardware threads busy. " +
		"All ends are threads of this program that wait in the kernel, in the pods' network namespaces; MTU 1500."

	streamBytes  = 512 << 20
	streamRounds = 15
	streamPart   = 256 << 10
)

// podNetwork compares the throughput between pods with that of a plain pair of interfaces.
func podNetwork(ctx context.Context, b *bench) error {
	return b.onPodStage(ctx, "podnetwork", func(s *stage, t *tracker) error {
		pods, err := s.podNamespaces(ctx, t)
		if err != nil {
			return err
		}
		defer pods.close()
		plain, err := plainPair()
		if err != nil {
			return err
		}
		defer plain.close()
		gbits := func(d []time.Duration) float64 { return streamBytes * 8 / quantile(d, 0.5).Seconds() / 1e9 }
		for _, how := range []struct {
			name    string
			streams int
		}{{"plain pair's throughput to that between pods", 1}, {"the same, four streams at once", 4}} {
			var through, direct []time.Duration
			for range streamRounds {
				for _, part := range []struct {
					p    *pair
					into *[]time.Duration
				}{{pods, &through}, {plain, &direct}} {
					took, err := part.p.streams(ctx, how.streams)
					if err != nil {
						return err
					}
					*part.into = append(*part.into, took)
				}
			}
			b.out.figure(figure{Name: how.name, Value: gbits(direct) / gbits(through), Unit: "times", Target: 1 / 0.95,
				Detail: fmt.Sprintf("%.1f and %.1f Gbit/s", gbits(direct), gbits(through))})
		}
		return nil
	})
}

// pair are two namespaces, and the address at which the first reaches the second.
type pair struct {
	from, to *machine.NetNS
	addr     netip.Addr
}

func (p *pair) close() {
	_ = p.from.Close()
	_ = p.to.Close()
}

// podNamespaces starts two pods.
func (s *stage) podNamespaces(ctx context.Context, t *tracker) (*pair, error) {
	client, err := s.Client()
	if err != nil {
		return nil, err
	}
	p := &pair{}
	for _, end := range []struct {
		name string
		into **machine.NetNS
	}{{"podnetwork-from", &p.from}, {"podnetwork-to", &p.to}} {
		body := encode(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": end.name}, "spec": object{
			"terminationGracePeriodSeconds": 0,
			"containers":                    []any{object{"name": "main", "image": imageName, "command": []string{"sh", "-c", "sleep 1000000; : " + end.name}}},
		}})
		if _, err := s.client.do(ctx, 0, call{method: http.MethodPost, path: inNamespace("pods"), body: body}); err != nil {
			return nil, err
		}
		if _, err := t.await(ctx, "Running", t.running, end.name); err != nil {
			return nil, err
		}
		pid, err := processWith(ctx, "sleep 1000000; : "+end.name)
		if err != nil {
			return nil, err
		}
		if *end.into, err = machine.NetNSOf(pid); err != nil {
			return nil, err
		}
		var pod *corev1.Pod
		if pod, err = client.CoreV1().Pods(namespace).Get(ctx, end.name, metav1.GetOptions{}); err != nil {
			return nil, err
		}
		if p.addr, err = netip.ParseAddr(pod.Status.PodIP); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// processWith waits for a process whose command line has an argument: a container that runs may have its program a little later.
func processWith(ctx context.Context, argument string) (int, error) {
	for end := time.Now().Add(podLimit); time.Now().Before(end); {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return 0, err
		}
		for _, f := range files {
			// A process may have ended since.
			if data, err := os.ReadFile(f); err == nil && bytes.Contains(data, []byte("\x00"+argument+"\x00")) {
				return strconv.Atoi(filepath.Base(filepath.Dir(f)))
			}
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return 0, fmt.Errorf("no process runs %q", argument)
}

// plainPair makes two namespaces with a pair of interfaces.
func plainPair() (*pair, error) {
	from, err := machine.NewNetNS()
	if err != nil {
		return nil, err
	}
	to, err := machine.NewNetNS()
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	p := &pair{from: from, to: to, addr: netip.AddrFrom4([4]byte{198, 18, 9, 2})}
	if err := machine.Pair(from, to, netip.PrefixFrom(p.addr.Prev(), 24), netip.PrefixFrom(p.addr, 24)); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// streams moves the bytes in so many streams at once and returns how long it took.
func (p *pair) streams(ctx context.Context, count int) (time.Duration, error) {
	results := make(chan error, count)
	took := make([]time.Duration, count)
	for i := range count {
		go func() {
			var err error
			took[i], err = p.stream(ctx, streamBytes/count)
			results <- err
		}()
	}
	var errs []error
	for range count {
		errs = append(errs, <-results)
	}
	return slices.Max(took), errors.Join(errs...) // they begin together
}

// stream moves bytes and returns how long it took, from the first write until all were read.
func (p *pair) stream(ctx context.Context, size int) (time.Duration, error) {
	l, err := p.to.Listen("tcp", netip.AddrPortFrom(p.addr, 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			fd, err := blocking(c)
			if err != nil {
				return err
			}
			buffer := make([]byte, streamPart)
			for left := size; left > 0; {
				n, err := unix.Read(fd, buffer)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err == nil && n == 0 {
					err = io.ErrUnexpectedEOF
				}
				if err != nil {
					return fmt.Errorf("with %d bytes to come: %w", left, err)
				}
				left -= n
			}
			return nil
		}()
	}()
	c, err := p.from.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		return 0, errors.Join(err, l.Close(), <-done)
	}
	defer c.Close()
	fd, err := blocking(c)
	if err != nil {
		return 0, err
	}
	buffer := make([]byte, streamPart)
	begin := time.Now()
	for left := size; left > 0; {
		n, err := unix.Write(fd, buffer[:min(left, len(buffer))])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		left -= max(n, 0)
	}
	err = <-done
	return time.Since(begin), err
}

// blocking makes who reads and writes wait in the kernel: how long Go's scheduler takes to wake somebody is no matter of a network. The descriptor is the connection's.
func blocking(c net.Conn) (fd int, err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(d uintptr) {
		fd = int(d)
		failed = unix.SetNonblock(fd, false)
	})
	return fd, errors.Join(err, failed)
}
