package network

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/network/dump"
)

// few has rapid try a property that needs the kernel less often.
func few(t *testing.T, checks string) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	before := f.Value.String()
	if err := f.Value.Set(checks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(before); err != nil {
			t.Error(err)
		}
	})
}

// TestNoLeaks: whatever comes, goes, crashes half-way and is forgotten by others, addresses, records and interfaces are exactly those of the sandboxes that there are.
func TestNoLeaks(t *testing.T) {
	few(t, "6")
	const sandboxes = 5 // as many as the range has
	var paths []string
	for range sandboxes {
		_, path := newNS(t)
		paths = append(paths, path)
	}
	rapid.Check(t, func(rt *rapid.T) {
		host, _ := newHost(t)
		cfg := Config{PodCIDRs: prefixes("10.99.0.0/29", "fd99::/64"), StateDir: t.TempDir(), linger: time.Millisecond}
		n := start(t, host, cfg)
		have := map[string][]netip.Addr{}
		one := rapid.IntRange(0, sandboxes-1)
		request := func(i int) SandboxRequest {
			req := SandboxRequest{ID: fmt.Sprint("s", i), NetNSPath: paths[i]}
			if i%2 == 0 {
				req.PortMappings = []PortMapping{{HostPort: uint16(8000 + i), ContainerPort: 80}}
				req.Bandwidth = Bandwidth{Egress: 1e9}
			}
			return req
		}
		restart := func() {
			if err := n.Close(); err != nil {
				rt.Fatal(err)
			}
			n = start(t, host, cfg)
			if lost := n.Retain(slices.Collect(maps.Keys(have))); len(lost) > 0 {
				rt.Fatalf("not known any more: %v", lost)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"set up": func(rt *rapid.T) {
				req := request(one.Draw(rt, "sandbox"))
				res, err := n.Setup(t.Context(), req)
				if err != nil {
					rt.Fatal(err)
				}
				if had := have[req.ID]; had != nil && !slices.Equal(had, res.IPs) {
					rt.Fatalf("%s had %v and has %v", req.ID, had, res.IPs)
				}
				have[req.ID] = res.IPs
			},
			"tear down": func(rt *rapid.T) {
				req := request(one.Draw(rt, "sandbox"))
				if err := n.Teardown(t.Context(), req); err != nil {
					rt.Fatal(err)
				}
				delete(have, req.ID)
			},
			"restart": func(*rapid.T) { restart() },
			"crash while setting up": func(rt *rapid.T) {
				req := request(one.Draw(rt, "sandbox"))
				if have[req.ID] != nil {
					return
				}
				s, _, err := n.allocate(req, req.PortMappings)
				if err != nil {
					rt.Fatal(err)
				}
				if rapid.Bool().Draw(rt, "with an interface") {
					attrs := netlink.NewLinkAttrs()
					attrs.Name = vethName(s.ID)
					v := netlink.NewVeth(attrs)
					v.PeerName = "half"
					if err := n.h.LinkAdd(v); err != nil && !errors.Is(err, unix.EEXIST) { // perhaps the last one is still being cut off
						rt.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(cfg.StateDir, ".x.json.new"), []byte("{"), 0o600); err != nil {
					rt.Fatal(err)
				}
				restart()
			},
			"": func(rt *rapid.T) {
				n.mu.Lock()
				defer n.mu.Unlock()
				seen := map[netip.Addr]bool{}
				for id, addrs := range have {
					if n.sandboxes[id] == nil || !slices.Equal(n.sandboxes[id].ips(), addrs) {
						rt.Fatalf("%s has %v, but is known as %+v", id, addrs, n.sandboxes[id])
					}
					for _, a := range addrs {
						if seen[a] {
							rt.Fatalf("%v is in use twice", a)
						}
						seen[a] = true
					}
				}
				files, err := filepath.Glob(filepath.Join(cfg.StateDir, "*"))
				if err != nil || len(files) != len(have) || len(n.sandboxes) != len(have) {
					rt.Fatalf("%d sandboxes, %d known, files %v", len(have), len(n.sandboxes), files)
				}
				for _, p := range n.pools {
					if len(p.used) != len(have) {
						rt.Fatalf("%d sandboxes, in use: %v", len(have), p.used)
					}
				}
			},
		})
		for i := range sandboxes {
			if err := n.Teardown(t.Context(), request(i)); err != nil {
				rt.Fatal(err)
			}
		}
		h := handle(t, host)
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			links, err := dump.Whole(h.LinkList)
			if err != nil {
				rt.Fatal(err)
			}
			left := slices.DeleteFunc(links, func(l netlink.Link) bool {
				name := l.Attrs().Name
				return !strings.HasPrefix(name, vethPrefix) && !strings.HasPrefix(name, ifbPrefix)
			})
			if len(left) == 0 {
				break
			}
			if time.Now().After(end) {
				rt.Fatalf("left: %v", left)
			}
		}
	})
}
