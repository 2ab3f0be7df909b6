package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/celox/celox/internal/cluster/config"
)

// TestNothingIsWrittenForNothing: a server that cannot have its port leaves no data directory behind, and one that was there as it was.
func TestNothingIsWrittenForNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "data")
	run := func() {
		t.Helper()
		var cfg config.Server
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		cfg.Bind(flags)
		port := taken.Addr().(*net.TCPAddr).Port
		if err := flags.Parse([]string{"--disable-node", "--node-name=n", "--bind-address=127.0.0.1", "--data-dir=" + dir, fmt.Sprint("--https-port=", port)}); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Complete(); err != nil {
			t.Fatal(err)
		}
		s, err := NewServer(cfg, slog.New(slog.DiscardHandler), func(string, ...any) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d is taken", port)) {
			t.Errorf("got %v", err)
		}
	}
	run()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory: %v", err)
	}
	if err := errors.Join(Mark(dir), os.Mkdir(filepath.Join(dir, pkiDir), 0o700)); err != nil {
		t.Fatal(err)
	}
	run()
	if !marked(dir) {
		t.Error("the directory of a cluster is not one any more")
	}
}

// TestRangesOfTheMachine: a new cluster cannot have a range that its first machine is in itself; one that has it already goes on.
func TestRangesOfTheMachine(t *testing.T) {
	own, err := machineAddress(false, nil)
	if err != nil || !own.IsValid() {
		t.Skipf("this machine has no address: %v", err)
	}
	around := netip.PrefixFrom(own, 24).Masked().String()
	for _, tt := range []struct{ key, pods, services, disable string }{
		{"", "2001:db8:77::/64", "2001:db8:78::/64", ""}, {"cluster-cidr", around, "2001:db8:77::/64", ""}, {"service-cidr", "2001:db8:77::/64", around, ""}, {"", around, "2001:db8:77::/64", config.PodNetwork},
	} {
		s := &Server{cfg: config.Server{Node: config.Node{DataDir: t.TempDir()}, ClusterCIDR: tt.pods, ServiceCIDR: tt.services, Disable: []string{tt.disable}}}
		err := s.checkRanges()
		if (err != nil) != (tt.key != "") || err != nil && !strings.HasPrefix(err.Error(), "--"+tt.key+" "+around+" has the address "+own.String()) {
			t.Errorf("pods %s, services %s, without %q: %v", tt.pods, tt.services, tt.disable, err)
		}
		state := filepath.Join(s.cfg.DataDir, networkDir)
		if err := errors.Join(os.Mkdir(state, 0o700), os.WriteFile(filepath.Join(state, rangesFile), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := s.checkRanges(); err != nil {
			t.Errorf("a machine that is a node: %v", err)
		}
	}
}
