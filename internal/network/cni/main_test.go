package cni

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newNS pins a fresh network namespace and returns the path of the pin.
func newNS(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	write(t, path, "")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unpin(t, path) })
	return path
}

func unpin(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		t.Error(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// bench is a node with a plugin "fake", which writes down what it is asked and fails when it is told to.
type bench struct {
	t               testing.TB
	dir, conf, bins string
	changes         atomic.Int64
	ranges          []netip.Prefix
}

// The plugin's answer to a command is in the file say-COMMAND; it fails if there is a file fail-COMMAND with what it says then.
const fakePlugin = `#!/bin/sh
d=%s
echo "$CNI_COMMAND id=$CNI_CONTAINERID ns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS" >>$d/calls
cat >$d/stdin-$CNI_COMMAND
if [ -e $d/fail-$CNI_COMMAND ]; then cat $d/fail-$CNI_COMMAND; echo "to stderr" >&2; exit 1; fi
if [ -e $d/say-$CNI_COMMAND ]; then cat $d/say-$CNI_COMMAND; fi
`

const fakeConf = `{"cniVersion": "%s", "name": "pods", "plugins": [{"type": "fake", "capabilities": {"portMappings": true, "bandwidth": true, "ipRanges": true, "dns": true}}]}`

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), ranges: []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24"), netip.MustParsePrefix("fd42:3::/64")}}
	b.conf, b.bins = filepath.Join(b.dir, "net.d"), filepath.Join(b.dir, "bin")
	b.say("VERSION", `{"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}`)
	b.say("ADD", `{"cniVersion": "1.0.0", "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/any"}], "ips": [
		{"address": "10.99.0.1/24", "interface": 0}, {"address": "fd42:3::7/64"}, {"address": "10.42.3.7/24"}]}`)
	return b
}

func (b *bench) install() { write(b.t, filepath.Join(b.bins, "fake"), fmt.Sprintf(fakePlugin, b.dir)) }

func (b *bench) configure(version string) {
	write(b.t, filepath.Join(b.conf, "10-pods.conflist"), fmt.Sprintf(fakeConf, version))
}

func (b *bench) say(command, text string)  { write(b.t, filepath.Join(b.dir, "say-"+command), text) }
func (b *bench) fail(command, text string) { write(b.t, filepath.Join(b.dir, "fail-"+command), text) }
func (b *bench) mend(command string)       { remove(b.t, filepath.Join(b.dir, "fail-"+command)) }

// calls returns what the plugin was asked since the last time, but for its version.
func (b *bench) calls() []string {
	b.t.Helper()
	var out []string
	for line := range strings.Lines(b.read("calls")) {
		if !strings.HasPrefix(line, "VERSION") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	if err := os.Remove(filepath.Join(b.dir, "calls")); err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *bench) open() *Network {
	b.t.Helper()
	n, err := New(Config{
		ConfDir: b.conf, BinDirs: []string{filepath.Join(b.dir, "none"), b.bins}, StateDir: filepath.Join(b.dir, "state"),
		Ranges: func() []netip.Prefix { return b.ranges }, Changed: func() { b.changes.Add(1) }, Log: slog.New(slog.NewTextHandler(logTo{b.t}, nil)),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	n.clock = times{firstRetry: time.Millisecond, lastRetry: 10 * time.Millisecond, unwell: 5 * time.Millisecond, well: 5 * time.Millisecond}
	return n
}

// run runs n until the test ends.
func run(t *testing.T, n *Network) {
	t.Helper()
	done := make(chan struct{})
	ctx := t.Context() // ends before the clean-up
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { <-done })
}

func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in a minute it was never so: %s", what)
		}
	}
}

type logTo struct{ t testing.TB }

func (l logTo) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func request(id, ns string) network.SandboxRequest {
	return network.SandboxRequest{ID: id, Namespace: "shop", Name: "cart-0", UID: "u-1", NetNSPath: ns}
}
