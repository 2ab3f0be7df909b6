package network

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// TestPool: whatever is taken and released, no address has two owners, none is outside or reserved, and what is released can be taken again.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom(prefixes("10.0.0.0/29", "10.0.0.8/30", "10.0.0.0/8", "fd00::/124", "fd00::/64")).Draw(t, "range")
		p, err := newPool(prefix)
		if err != nil {
			t.Fatal(err)
		}
		size := 1 << min(prefix.Addr().BitLen()-prefix.Bits(), 20)
		size -= 2 // network and gateway
		if prefix.Addr().Is4() {
			size-- // broadcast
		}
		held := map[netip.Addr]string{}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				owner := rapid.StringMatching("[a-z]").Draw(t, "owner")
				a, err := p.take(owner)
				if err != nil {
					if len(held) < size {
						t.Fatalf("full at %d of %d: %v", len(held), size, err)
					}
					return
				}
				if _, ok := held[a]; ok || !prefix.Contains(a) || a == p.gateway || a == prefix.Addr() {
					t.Fatalf("took %v, held %v", a, held)
				}
				held[a] = owner
			},
			"release": func(t *rapid.T) {
				for a, o := range held {
					p.release(a, "somebody else")
					p.release(a, o)
					delete(held, a)
					break
				}
			},
			"": func(t *rapid.T) {
				if len(p.used) != len(held) {
					t.Fatalf("%d used, %d held", len(p.used), len(held))
				}
			},
		})
		// A new process that claims what is held goes on from there.
		q, err := newPool(prefix)
		if err != nil {
			t.Fatal(err)
		}
		for a, o := range held {
			if err := q.claim(a, o); err != nil {
				t.Fatal(err)
			}
			if err := q.claim(a, o+"x"); err == nil {
				t.Fatal("claimed twice")
			}
		}
		if a, err := q.take("z"); err == nil && held[a] != "" {
			t.Fatalf("took %v, held %v", a, held)
		}
	})
}
