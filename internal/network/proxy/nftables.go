package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// frontendsPerBatch keeps a transaction within the socket's buffer, also if each of them has hundreds of endpoints.
	frontendsPerBatch = 1000
	socketBuffer      = 16 << 20
	answerTime        = time.Minute
)

// NFTables is the datapath in the kernel. It is used by one goroutine.
type NFTables struct {
	pods     func() []netip.Prefix
	log      *slog.Logger
	ns       *os.File
	families []*ruleset
	applied  map[Key]*Frontend // what Replace and Update were given
	stale    []*stale          // connections that are still to be forgotten
	news     *Tampering        // nil is nobody
}

// NewNFTables returns the datapath of the network namespace that the calling thread is in. pods returns the ranges of this node's pods, and is asked at
// each Replace: packets from elsewhere that use a cluster address get the node's as their source.
func NewNFTables(pods func() []netip.Prefix, log *slog.Logger) (*NFTables, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("nftables: network namespace: %w", err)
	}
	d := &NFTables{pods: pods, log: log, ns: ns, applied: map[Key]*Frontend{}}
	for _, f := range []family{ipv4, ipv6} {
		r := &ruleset{family: f, ns: int(ns.Fd())}
		if err := r.dial(); err != nil {
			return nil, errors.Join(fmt.Errorf("nftables: %w", err), d.Close())
		}
		d.families = append(d.families, r)
	}
	return d, nil
}

// Quiet spares t the news of what Replace does, of which the kernel would write a message for each element. Afterwards t has a signal, for what somebody
// else may have done meanwhile. It is called before the first Replace.
func (d *NFTables) Quiet(t *Tampering) { d.news = t }

// Close leaves the rules as they are, so that services go on without us.
func (d *NFTables) Close() error {
	var errs []error
	for _, r := range d.families {
		errs = append(errs, r.conn.CloseLasting())
	}
	return errors.Join(append(errs, d.ns.Close())...)
}

// Replace makes all the only frontends. The tables are built beside those that work and then take over in one transaction.
func (d *NFTables) Replace(all map[Key]*Frontend) error {
	changed := map[Key]*Frontend{}
	for k := range d.applied {
		changed[k] = nil
	}
	maps.Copy(changed, all)
	d.note(changed)
	if d.news != nil {
		if err := d.news.Rest(); err != nil {
			return err
		}
	}
	err := d.replace(all)
	if d.news != nil {
		err = errors.Join(err, d.news.Resume())
	}
	if err == nil {
		d.forget()
	}
	return err
}

func (d *NFTables) replace(all map[Key]*Frontend) error {
	for _, r := range d.families {
		if err := r.dial(); err != nil { // answers of what failed before may still be on the way in the old one
			return fmt.Errorf("nftables: %w", err)
		}
		if err := r.replace(d.pods(), all); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	return nil
}

// Update changes what is named; nil is a frontend that is gone. It is one transaction per family. After an error only Replace helps.
func (d *NFTables) Update(changed map[Key]*Frontend) error {
	d.note(changed)
	for _, r := range d.families {
		if err := r.update(changed); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	d.forget()
	return nil
}

// note remembers what has been asked for, and which connections it ends.
func (d *NFTables) note(changed map[Key]*Frontend) {
	if s := newStale(d.applied, changed); s != nil {
		d.stale = append(d.stale, s)
	}
	for k, f := range changed {
		if f == nil {
			delete(d.applied, k)
		} else {
			d.applied[k] = f
		}
	}
}

// forget ends connections and affinities that would lead to endpoints that are gone.
func (d *NFTables) forget() {
	for _, s := range d.stale {
		// New connections are right in any case; others find out by themselves when they have been silent for a while.
		if err := s.forget(d.ns); err != nil {
			d.log.Warn("service proxy: connections to endpoints that are gone", "err", err)
		}
		for _, r := range d.families {
			if err := r.forget(s); err != nil {
				d.log.Warn("service proxy: affinities to endpoints that are gone", "err", err)
			}
		}
	}
	d.stale = nil
}

// Intact reports whether the tables are still there as they were made.
func (d *NFTables) Intact() (bool, error) {
	for _, r := range d.families {
		ok, err := r.intact()
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Remove takes all tables of this package away.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, tablePrefix) {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// ruleset is the table of one family.
type ruleset struct {
	family family
	ns     int
	conn   *nftables.Conn
	socket *netlink.Conn // conn's

	generation int
	table      *nftables.Table
	sets       map[string]*nftables.Set
	chains     map[string]bool   // routes and lists of sources
	routes     map[string]uint32 // numbers of routes by their chains
	placed     map[Key]*placed
	cluster    map[netip.Addr]int // frontends of each cluster address
	hairpin    map[netip.Addr]int // local endpoints of each address
}

// placed is what the kernel has of a frontend. An endpoint keeps its number as long as it can.
type placed struct {
	*Frontend
	all, local []netip.AddrPort
	entries    []entry
}

// dial opens a connection to the kernel in place of the one that there is.
func (r *ruleset) dial() error {
	if r.conn != nil {
		if err := r.conn.CloseLasting(); err != nil {
			return err
		}
	}
	conn, err := nftables.New(nftables.WithNetNSFd(r.ns), nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		r.socket = c
		// With CAP_NET_ADMIN the kernel's limits don't hold.
		if err := c.SetWriteBuffer(socketBuffer); err != nil {
			return err
		}
		return c.SetReadBuffer(socketBuffer)
	}))
	r.conn = conn
	return err
}

func (r *ruleset) replace(pods []netip.Prefix, all map[Key]*Frontend) error {
	old, err := r.conn.ListTablesOfFamily(r.family.nft)
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(t *nftables.Table) bool { return !strings.HasPrefix(t.Name, tablePrefix) })
	r.generation++
	for slices.ContainsFunc(old, func(t *nftables.Table) bool { return t.Name == r.tableName() }) {
		r.generation++
	}
	r.sets, r.chains, r.routes, r.placed = map[string]*nftables.Set{}, map[string]bool{}, map[string]uint32{}, map[Key]*placed{}
	r.cluster, r.hairpin = map[netip.Addr]int{}, map[netip.Addr]int{}
	r.table = r.conn.AddTable(&nftables.Table{Family: r.family.nft, Name: r.tableName()})
	if err := r.addSets(); err != nil {
		return err
	}
	var ranges []nftables.SetElement
	for _, p := range pods {
		if p.Addr().Is6() == (r.family.size == 16) {
			ranges = append(ranges, rangeElements(p)...)
		}
	}
	if len(ranges) > 0 {
		if err := r.conn.SetAddElements(r.sets[setPods], ranges); err != nil {
			return err
		}
	}
	fixed := r.family.fixed()
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		r.conn.AddChain(&nftables.Chain{Table: r.table, Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(fixed)) {
		r.fill(name, fixed[name])
	}
	if err := r.flush(); err != nil {
		return err
	}
	fates := newBatch()
	fates.lead(mapFates, number(fateRefuse), &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainRefuse})
	fates.lead(mapFates, number(fateDrop), &expr.Verdict{Kind: expr.VerdictDrop})
	if err := r.send(fates); err != nil {
		return err
	}
	change := map[Key]*Frontend{}
	for k, f := range all {
		change[k] = f
		if len(change) == frontendsPerBatch {
			if err := r.update(change); err != nil {
				return err
			}
			clear(change)
		}
	}
	if err := r.update(change); err != nil {
		return err
	}
	accept := nftables.ChainPolicyAccept
	for _, b := range r.family.bases() {
		r.conn.AddChain(&nftables.Chain{Table: r.table, Name: b.name, Type: b.kind, Hooknum: b.hook, Priority: b.priority, Policy: &accept})
		r.fill(b.name, b.rules)
	}
	for _, t := range old {
		r.conn.DelTable(t)
	}
	return r.flush()
}

func (r *ruleset) addSets() error {
	for i, s := range r.family.sets(r.table) {
		s.ID = uint32(i + 1) // within the transaction; the library would count in a variable that is nobody's
		r.sets[s.Name] = s
		if err := r.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *ruleset) tableName() string { return fmt.Sprint(tablePrefix, r.generation) }

func (r *ruleset) fill(chain string, rules [][]expr.Any) {
	for _, e := range rules {
		r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: &nftables.Chain{Name: chain, Table: r.table}, Exprs: e})
	}
}

// flush sends what has been collected as one transaction. The kernel answers at once; that it doesn't is an error, not a wait.
func (r *ruleset) flush() error {
	if err := r.socket.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	return r.conn.Flush()
}

// route returns the number of a route.
func (r *ruleset) route(b *batch, rt route) uint32 {
	name := r.chain(rt)
	n := r.routes[name]
	if n == 0 {
		n = uint32(len(r.routes) + 1)
		r.routes[name] = n
		b.lead(mapRoutes, number(n), &expr.Verdict{Kind: expr.VerdictGoto, Chain: name})
	}
	return n
}

// chain makes a route's chain once. It stays: the next frontend like this needs it again.
func (r *ruleset) chain(rt route) string {
	name := rt.name()
	if r.chains[name] {
		return name
	}
	if rt.split {
		pods, processes, others := rt.parts()
		r.chain(pods)
		r.chain(processes)
		if rt.localCount > 0 {
			r.chain(others)
		}
	}
	r.chains[name] = true
	r.conn.AddChain(&nftables.Chain{Table: r.table, Name: name})
	r.fill(name, r.family.rules(rt))
	return name
}

func sourcesChain(k Key, sources []netip.Prefix) string {
	h := fnv.New64a()
	fmt.Fprint(h, k, sources)
	return fmt.Sprintf("sources-%x", h.Sum64())
}

func (r *ruleset) sourcesUsed(chain string) bool {
	for k, p := range r.placed {
		if len(p.Sources) > 0 && sourcesChain(k, p.Sources) == chain {
			return true
		}
	}
	return false
}

// sources makes the chain that lets packets from some ranges through.
func (r *ruleset) sources(k Key, sources []netip.Prefix) string {
	name := sourcesChain(k, sources)
	if r.chains[name] {
		return name
	}
	r.chains[name] = true
	r.conn.AddChain(&nftables.Chain{Table: r.table, Name: name})
	var rules [][]expr.Any
	for _, p := range sources {
		rules = append(rules, append(r.family.from(p), &expr.Verdict{Kind: expr.VerdictReturn}))
	}
	// The node itself may: its packets don't come in by an interface, but a health check of the address does by the loopback.
	rules = append(rules, append(local(true), &expr.Verdict{Kind: expr.VerdictReturn}), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	r.fill(name, rules)
	return name
}

// from matches packets from a range.
func (f family) from(p netip.Prefix) []expr.Any {
	mask := make([]byte, f.size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		f.loadSrc(reg0),
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: p.Masked().Addr().AsSlice()},
	}
}

// forget removes the affinities of clients to endpoints that are gone.
func (r *ruleset) forget(s *stale) error {
	if !s.affinity {
		return nil
	}
	size := int(r.family.size)
	for range 3 { // an element may expire while we look
		elements, err := r.conn.GetSetElements(r.sets[mapAffinity])
		if err != nil {
			return err
		}
		gone := newBatch()
		for _, e := range elements {
			if len(e.Key) < 2*size+8 || len(e.Val) < size+2 {
				continue
			}
			place, to := e.Key[size:], e.Val
			addr, _ := netip.AddrFromSlice(place[:size])
			endpoint, _ := netip.AddrFromSlice(to[:size])
			k := Key{Addr: addr, Protocol: protocolOf(place[size]), Port: binary.BigEndian.Uint16(place[size+4:])}
			if f, ok := s.keys[k]; ok && (f == nil || !f.has(netip.AddrPortFrom(endpoint, binary.BigEndian.Uint16(to[size:])))) {
				gone.delete(mapAffinity, e.Key)
			}
		}
		if err = r.send(gone); err == nil || !isMissing(err) {
			return err
		}
	}
	return nil
}

// intact looks for the chains that the kernel calls.
func (r *ruleset) intact() (bool, error) {
	if r.table == nil {
		return false, nil
	}
	tables, err := r.conn.ListTablesOfFamily(r.family.nft)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == r.table.Name }) {
		return false, nil
	}
	for _, b := range r.family.bases() {
		rules, err := r.conn.GetRules(r.table, &nftables.Chain{Table: r.table, Name: b.name})
		if err != nil && !isMissing(err) {
			return false, err
		}
		if len(rules) != len(b.rules) {
			return false, nil
		}
	}
	return true, nil
}

func isMissing(err error) bool { return strings.Contains(err.Error(), unix.ENOENT.Error()) }
