package proxy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
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

// NoTables says whether an error of Probe is that of a kernel, or of a cage around this process, that has no nf_tables at all.
func NoTables(err error) bool {
	return is(err, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT)
}

// Passing says whether an error of Probe is of the moment, and says nothing of what the kernel can: it was interrupted, busy, or short of something. One that is
// asked for what it does not know says that there is no such thing, which it also says while others change their tables: that passes if it is asked again.
func Passing(err error) bool {
	return is(err, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ENOBUFS, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ETIMEDOUT) || errors.Is(err, os.ErrDeadlineExceeded)
}

// is looks for numbers of the kernel's, of which the library passes some on as words alone.
func is(err error, any ...unix.Errno) bool {
	return err != nil && slices.ContainsFunc(any, func(e unix.Errno) bool {
		return errors.Is(err, e) || strings.HasSuffix(err.Error(), ": "+e.Error())
	})
}
