package proxy

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
)

// probeTable is in the kernel for no longer than a transaction takes.
const probeTable = "celox-probe"

// Probe returns what the kernel, in the network namespace of the calling thread, says to tables like NFTables': nil if it can have them.
// Nothing changes: what is made is removed in the same transaction.
func Probe() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	// A kernel without tables at all answers this one, but not each part of a transaction.
	if _, err := conn.ListTables(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r := &ruleset{family: ipv4, conn: conn, sets: map[string]*nftables.Set{}, chains: map[string]bool{}}
	r.table = conn.AddTable(&nftables.Table{Family: r.family.nft, Name: probeTable})
	if err := r.addSets(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	fixed := r.family.fixed()
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		conn.AddChain(&nftables.Chain{Table: r.table, Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		r.fill(name, fixed[name])
	}
	r.chain(route{count: 1, mask: always, affinity: 1e9})
	accept := nftables.ChainPolicyAccept
	for _, b := range r.family.bases() {
		conn.AddChain(&nftables.Chain{Table: r.table, Name: b.name, Type: b.kind, Hooknum: b.hook, Priority: b.priority, Policy: &accept})
	}
	conn.DelTable(r.table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}
