package network

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/shortcut"
)

// cpu is what this process and the kernel on its behalf have computed so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAttach connects a sandbox, its addresses and the record of them included; cpu-ns/op is the time that it computes. Others are there, some of which have host ports.
func BenchmarkAttach(b *testing.B) { benchmark(b, true, nil) }

// BenchmarkAttachHostPort is the same for a sandbox with a host port, which needs rules.
func BenchmarkAttachHostPort(b *testing.B) {
	benchmark(b, true, []PortMapping{{ContainerPort: 80, HostPort: 8080}})
}

// BenchmarkDetach disconnects a sandbox.
func BenchmarkDetach(b *testing.B) { benchmark(b, false, nil) }

// BenchmarkDetachHostPort disconnects one with a host port.
func BenchmarkDetachHostPort(b *testing.B) {
	benchmark(b, false, []PortMapping{{ContainerPort: 80, HostPort: 8080}})
}

func benchmark(b *testing.B, up bool, ports []PortMapping) {
	host, _ := newHost(b)
	short, err := shortcut.New()
	if err != nil {
		b.Fatal(err)
	}
	defer short.Close()
	n := start(b, host, Config{PodCIDRs: prefixes("10.99.0.0/16"), StateDir: b.TempDir(), Shortcut: short})
	for i := range 30 {
		setUp(b, n, fmt.Sprint("other", i), PortMapping{ContainerPort: 80, HostPort: uint16(9000 + i)})
	}
	b.ReportAllocs()
	var spent time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		ns, path := newNS(b)
		req := SandboxRequest{ID: fmt.Sprint("p", i), NetNSPath: path, PortMappings: ports}
		step := func(timed bool, f func() error) {
			if timed {
				b.StartTimer()
				defer b.StopTimer()
				before := cpu(b)
				defer func() { spent += cpu(b) - before }()
			}
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		step(up, func() error {
			_, err := n.Setup(b.Context(), req)
			return err
		})
		step(!up, func() error { return n.Teardown(b.Context(), req) })
		unpin(b, ns, path)
		b.StartTimer()
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/op")
}
