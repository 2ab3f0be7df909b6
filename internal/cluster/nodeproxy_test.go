package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/cluster/config"
)

func TestProxyMode(t *testing.T) {
	can, cannot := func() error { return nil }, func() error { return errors.New("protocol not supported") }
	for _, c := range []struct {
		wanted string
		probe  func() error
		want   string
		said   bool
	}{
		{config.ProxyNFTables, can, config.ProxyNFTables, false},
		{"", can, config.ProxyNFTables, false}, // a server of before
		{config.ProxyNFTables, cannot, config.ProxyUserspace, true},
		{config.ProxyUserspace, can, config.ProxyUserspace, false},
		{config.ProxyUserspace, cannot, config.ProxyUserspace, false},
	} {
		said := ""
		got := proxyMode(c.wanted, c.probe, func(format string, args ...any) { said += fmt.Sprintf(format, args...) })
		if got != c.want || strings.Contains(said, "protocol not supported") != c.said {
			t.Errorf("%q: %s, and said %q", c.wanted, got, said)
		}
	}
}

// TestProxyModeOfAgents: what the server was told is what agents read.
func TestProxyModeOfAgents(t *testing.T) {
	one := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	got, err := factsFrom(facts{clusterCIDRs: one, serviceCIDRs: one, domain: "d", proxyMode: config.ProxyUserspace}.data())
	if err != nil || got.proxyMode != config.ProxyUserspace {
		t.Errorf("%q, %v", got.proxyMode, err)
	}
}

// TestRulesPossible: only a kernel that cannot have rules keeps a node from them, not what passes.
func TestRulesPossible(t *testing.T) {
	wrapped := func(e unix.Errno) error {
		return fmt.Errorf("nftables: conn.Receive: %w", os.NewSyscallError("recvmsg", e))
	}
	for _, c := range []struct {
		name  string
		fails []unix.Errno // one after another; the last goes on for ever
		tries int
		want  bool
	}{
		{"it can", []unix.Errno{0}, 1, true},
		{"no nf_tables", []unix.Errno{unix.EPROTONOSUPPORT}, 1, false},
		{"somebody else's change was in the way", []unix.Errno{unix.ENOENT, unix.ENOENT, 0}, 3, true},
		{"busy, and interrupted", []unix.Errno{unix.EBUSY, unix.EINTR, 0}, 3, true},
		{"interrupted without end", []unix.Errno{unix.EINTR}, probeTries, true},
		{"no buffers without end", []unix.Errno{unix.ENOBUFS}, probeTries, true},
		{"a part is missing", []unix.Errno{unix.ENOENT}, probeTries, false},
		{"not allowed", []unix.Errno{unix.EPERM}, probeTries, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tries, slept := 0, time.Duration(0)
			err := rulesPossible(func() error {
				e := c.fails[min(tries, len(c.fails)-1)]
				tries++
				if e == 0 {
					return nil
				}
				return wrapped(e)
			}, func(d time.Duration) { slept += d }, slog.New(slog.DiscardHandler))
			if (err == nil) != c.want || tries != c.tries {
				t.Errorf("%v after %d tries", err, tries)
			}
			if slept > 5*time.Second {
				t.Errorf("it takes %v", slept)
			}
		})
	}
}
