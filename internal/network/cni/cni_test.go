package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network"
)

func TestLifecycle(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.0.0")
	n := b.open()
	if err := n.Ready(); err != nil {
		t.Fatal(err)
	}
	ns := newNS(t)
	req := request("box1", ns)
	req.PortMappings = []network.PortMapping{{Protocol: "UDP", ContainerPort: 53, HostPort: 5353, HostIP: "192.0.2.1"}, {ContainerPort: 80}}
	req.Bandwidth = network.Bandwidth{Ingress: 8_000_000, Egress: 1_000_000_000_000_000}
	req.DNS = network.DNS{Servers: []string{"10.43.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}}
	want := []netip.Addr{netip.MustParseAddr("10.42.3.7"), netip.MustParseAddr("fd42:3::7")}
	for range 2 {
		res, err := n.Setup(t.Context(), req)
		if err != nil || !slices.Equal(res.IPs, want) {
			t.Fatalf("%v %v", res, err)
		}
	}
	about := " id=box1 ns=" + ns + " if=eth0 args=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=box1;K8S_POD_UID=u-1"
	if got := b.calls(); !slices.Equal(got, []string{"ADD" + about, "CHECK" + about}) {
		t.Errorf("%q", got)
	}
	var told struct {
		Name, CNIVersion string
		RuntimeConfig    any
		PrevResult       map[string]any
	}
	if err := json.Unmarshal([]byte(b.read("stdin-ADD")), &told); err != nil {
		t.Fatal(err)
	}
	var conf any
	if err := json.Unmarshal([]byte(`{
		"portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}],
		"bandwidth": {"ingressRate": 8000000, "ingressBurst": 4294967295, "egressRate": 1000000000000000, "egressBurst": 4294967295},
		"ipRanges": [[{"subnet": "10.42.3.0/24"}], [{"subnet": "fd42:3::/64"}]],
		"dns": {"servers": ["10.43.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}}`), &conf); err != nil {
		t.Fatal(err)
	}
	if told.Name != "pods" || told.CNIVersion != "1.0.0" || !reflect.DeepEqual(told.RuntimeConfig, conf) {
		t.Errorf("%+v", told)
	}

	// A restart, another configuration, none: whatever was told then is told now.
	write(t, filepath.Join(b.conf, "00-first.conflist"), `{"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "other"}]}`)
	n = b.open()
	if err := n.Ready(); err == nil || !strings.Contains(err.Error(), `failed to find plugin "other"`) {
		t.Errorf("ready without a plugin: %v", err)
	}
	if !Has(filepath.Join(b.dir, "state")) {
		t.Error("the state is not seen")
	}
	if err := n.Teardown(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := b.calls(); !slices.Equal(got, []string{"DEL" + about}) {
		t.Errorf("%q", got)
	}
	var again struct {
		RuntimeConfig any
		PrevResult    struct{ IPs []any }
	}
	if err := json.Unmarshal([]byte(b.read("stdin-DEL")), &again); err != nil || !reflect.DeepEqual(again.RuntimeConfig, conf) || len(again.PrevResult.IPs) != 3 {
		t.Errorf("%+v %v", again, err)
	}
	if err := n.Teardown(t.Context(), req); err != nil || len(b.calls()) > 0 {
		t.Errorf("taken down twice: %v", err)
	}
	if Has(filepath.Join(b.dir, "state")) {
		t.Error("a record is left")
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "state/cache/results")); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v %v", left, err)
	}
}

// TestChanged: a sandbox whose plugins say that it isn't any more as they made it is made anew.
func TestChanged(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("0.4.0")
	n := b.open()
	req := request("box1", newNS(t))
	if _, err := n.Setup(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	b.fail("CHECK", `{"cniVersion": "0.4.0", "code": 100, "msg": "who removed it?"}`)
	if _, err := n.Setup(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range b.calls() {
		got = append(got, strings.Fields(c)[0])
	}
	if !slices.Equal(got, []string{"ADD", "CHECK", "DEL", "ADD"}) {
		t.Errorf("%q", got)
	}
}

// TestFailures: the plugin's own words reach the caller, what a plugin may have made is taken down, and that is tried until it works.
func TestFailures(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.0.0")
	n := b.open()
	ns := newNS(t)
	for i, tt := range []struct{ says, want string }{
		{`{"cniVersion": "1.0.0", "code": 11, "msg": "no address left", "details": "of 10.0.0.0/30"}`, `plugin type="fake" failed (add): no address left; of 10.0.0.0/30`},
		{"plain words", `plugin type="fake" failed (add): plain words`},
		{"", "to stderr"},
	} {
		b.fail("ADD", tt.says)
		req := request(fmt.Sprint("box", i), ns)
		if _, err := n.Setup(t.Context(), req); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		b.calls()
		if err := n.Teardown(t.Context(), req); err != nil {
			t.Error(err)
		}
		if got := b.calls(); len(got) != 1 || !strings.HasPrefix(got[0], "DEL id="+req.ID+" ") {
			t.Errorf("%q", got)
		}
	}
	b.mend("ADD")
	b.say("ADD", `{"cniVersion": "1.0.0", "ips": []}`)
	if _, err := n.Setup(t.Context(), request("a", ns)); err == nil || !strings.Contains(err.Error(), `network "pods": the plugins gave eth0 no address`) {
		t.Error(err)
	}
	b.say("ADD", `{"cniVersion": "1.0.0", "ips": [{"address": "10.42.3.9/24"}]}`)
	if _, err := n.Setup(t.Context(), request("b", ns)); err != nil {
		t.Error(err)
	}
	b.fail("DEL", `{"code": 11, "msg": "come back later"}`)
	for range 2 {
		if err := n.Teardown(t.Context(), request("b", ns)); err == nil || !strings.Contains(err.Error(), "come back later") {
			t.Error(err)
		}
	}
	// The sandbox is gone, but the plugins go on being asked, also by the next process.
	unpin(t, ns)
	n = b.open()
	n.Retain(nil)
	run(t, n)
	b.calls()
	until(t, "the plugin is asked again", func() bool { return strings.Count(b.read("calls"), "DEL id=b ns= ") > 1 })
	b.mend("DEL")
	until(t, "no records are left", func() bool { return !Has(filepath.Join(b.dir, "state")) })
}

func TestNoRange(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.0.0")
	b.ranges = nil
	n := b.open()
	if _, err := n.Setup(t.Context(), request("a", newNS(t))); err == nil || !strings.Contains(err.Error(), "ipRanges") {
		t.Error(err)
	}
	if got := b.calls(); len(got) > 0 {
		t.Errorf("%q", got)
	}
	write(t, filepath.Join(b.conf, "00.conf"), `{"cniVersion": "0.3.1", "name": "old", "type": "fake"}`)
	n = b.open()
	if res, err := n.Setup(t.Context(), request("a", newNS(t))); err != nil || res.IPs[0].String() != "fd42:3::7" {
		t.Errorf("%v %v", res, err) // in the plugin's order
	}
}

// TestTime: a plugin that doesn't end is ended, with all that it started.
func TestTime(t *testing.T) {
	b := newBench(t)
	b.configure("1.0.0")
	pids := filepath.Join(b.dir, "pids")
	write(t, filepath.Join(b.bins, "fake"), fmt.Sprintf("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\nsleep 1000 &\necho $$ $! >%s.new; mv %s.new %s; wait\n", pids, pids, pids))
	n := b.open()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	ns := newNS(t)
	go func() {
		_, err := n.Setup(ctx, request("a", ns))
		done <- err
	}()
	until(t, "the plugin runs", func() bool { return b.read("pids") != "" })
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the plugin was ended") {
		t.Error(err)
	}
	var pid, child int
	if _, err := fmt.Sscan(b.read("pids"), &pid, &child); err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{pid, child} {
		until(t, "the process is gone", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
			return err != nil && unix.Kill(p, 0) == unix.ESRCH || strings.Contains(string(stat), ") Z ")
		})
	}
	if err := n.Teardown(t.Context(), request("a", ns)); err != nil {
		t.Error(err)
	}
}

func TestReset(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.0.0")
	n := b.open()
	ns := newNS(t)
	for _, id := range []string{"a", "b"} {
		if _, err := n.Setup(t.Context(), request(id, ns)); err != nil {
			t.Fatal(err)
		}
	}
	b.calls()
	write(t, filepath.Join(b.dir, "state", "torn.json"), `{"id": "to`)
	write(t, filepath.Join(b.dir, "state", ".c.json.new"), `{`)
	if err := Reset(t.Context(), Config{BinDirs: []string{b.bins}, StateDir: filepath.Join(b.dir, "state"), Log: n.cfg.Log}); err != nil {
		t.Fatal(err)
	}
	got := b.calls()
	if slices.Sort(got); len(got) != 2 || !strings.HasPrefix(got[0], "DEL id=a ") || !strings.HasPrefix(got[1], "DEL id=b ") {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "state")); !os.IsNotExist(err) {
		t.Error(err)
	}
}
