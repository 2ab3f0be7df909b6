package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// An address belongs to a name for as long as the answer said, within these limits, and for namesGrace more: clients are not always as quick as they should be.
	shortestName = time.Minute
	longestName  = 24 * time.Hour
	namesGrace   = 5 * time.Minute
	// standingEvery is how often it is looked whether connections still stand to addresses that names had.
	standingEvery = 5 * time.Minute
	// sweepPause is at least between two looks at what has ended.
	sweepPause = 15 * time.Second
	// namesKeepAfter is how long what changes is gathered before it is written: pods have cached what a process that is killed forgets.
	namesKeepAfter = 100 * time.Millisecond
	// namesPatience is how long an answer waits for its addresses to be in force.
	namesPatience = time.Second
	// lateSilence is between two words of the log about answers that did not wait any longer.
	lateSilence = time.Minute
	// maxNames bounds the names that are known, and maxNameAddresses the addresses of one. The names that policies have letter for letter are always among them.
	maxNames         = 10_000
	maxNameAddresses = 512
)

// Standing says to which addresses connections stand.
type Standing interface {
	// Standing sets those in the map to true.
	Standing(asked map[netip.Addr]bool) error
}

// Names are the addresses of the domain names that policies mention, as the node's name server gives them out. What it is asked about other names costs
// a look. Its methods may be called concurrently.
type Names struct {
	path      string // of the file that has them; "" is none
	standing  Standing
	log       *slog.Logger
	late      prometheus.Counter
	mentioned atomic.Pointer[domains] // nil is none
	wake      chan struct{}           // capacity 1: run has something to do

	mu      sync.Mutex
	of      map[string]map[netip.Addr]*owned             // guarded by mu
	put     func(ctx context.Context, name string) error // guarded by mu; it returns when the addresses are in force; nil while nobody can
	others  func()                                       // guarded by mu; it is called when other names are mentioned
	changed bool                                         // guarded by mu: the file is behind
	said    time.Time                                    // guarded by mu: when the log had a word of late answers
}

// owned is an address of a name.
type owned struct {
	until  time.Time
	placed bool // it is in force
	lapsed bool // it is the name's no more, and connections stand to it until then at least
}

var (
	errNotYet  = errors.New("policies are not in force yet")
	errTooMany = fmt.Errorf("the node knows %d names that policies mention, which is all that it can", maxNames)
	errTooLong = fmt.Errorf("not within %v", namesPatience)
	errNoRoom  = fmt.Errorf("it has more than %d addresses", maxNameAddresses)
)

// NewNames returns those that the file at path has ("" is none), as long as they were believed and for a little more. Standing may be nil.
func NewNames(path string, standing Standing, metrics prometheus.Registerer, log *slog.Logger) *Names {
	n := &Names{
		path: path, standing: standing, log: log, wake: make(chan struct{}, 1), of: map[string]map[netip.Addr]*owned{}, others: func() {},
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "celox_policy_names_late_total", Help: "Answers of the name server that left before policies allowed the addresses in them.",
		}),
	}
	metrics.MustRegister(n.late)
	if err := n.recall(time.Now()); err != nil {
		log.Warn("network policy: addresses of names are not known until pods ask for them again", "file", path, "err", err)
	}
	return n
}

// Follow has others called when other names are mentioned: answers about them that were given before may be unknown here.
func (n *Names) Follow(others func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.others = others
}

// Wants says whether a policy mentions a name, which is in lower case.
func (n *Names) Wants(name string) bool {
	d := n.mentioned.Load()
	return d != nil && d.has(strings.TrimSuffix(name, "."))
}

// Resolved is told of the addresses of a name, and returns when they are in force; or, with a word in the log, when that takes too long.
func (n *Names) Resolved(ctx context.Context, name string, addrs []netip.Addr, ttl time.Duration) {
	name = strings.TrimSuffix(name, ".")
	put, waits, err := n.note(name, addrs, time.Now().Add(min(max(ttl, shortestName), longestName)+namesGrace))
	if waits {
		failed := errNotYet
		if put != nil {
			ctx, cancel := context.WithTimeoutCause(ctx, namesPatience, errTooLong)
			failed = put(ctx, name)
			cancel()
		}
		if failed == nil {
			n.place(name, addrs)
		}
		err = errors.Join(err, failed)
	}
	if err == nil {
		return
	}
	n.late.Inc()
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); now.Sub(n.said) >= lateSilence {
		n.said = now
		n.log.Warn("network policy: an answer left before its addresses were allowed", "name", name, "err", err)
	}
}

// note takes addresses up. waits says that some of them are not in force yet.
func (n *Names) note(name string, addrs []netip.Addr, until time.Time) (put func(context.Context, string) error, waits bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.mentioned.Load()
	if d == nil || !d.has(name) { // not any more
		return nil, false, nil
	}
	has := n.of[name]
	if has == nil {
		if _, whole := d.whole[name]; !whole && len(n.of) >= maxNames {
			return nil, false, errTooMany
		}
		has = map[netip.Addr]*owned{}
		n.of[name] = has
	}
	for _, a := range addrs {
		o := has[a]
		if o == nil {
			if len(has) >= maxNameAddresses {
				err = errNoRoom
				continue
			}
			o = &owned{}
			has[a] = o
		}
		if o.lapsed {
			o.placed, o.lapsed = false, false
		}
		waits = waits || !o.placed
		if o.until.Before(until) {
			o.until = until
		}
	}
	n.changed = true // that it is for longer is written with the next that changes
	if waits {
		n.change()
	}
	return n.put, waits, err
}

// change has the file written some time. n.mu must be held.
func (n *Names) change() {
	n.changed = true
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// place notes that addresses are in force.
func (n *Names) place(name string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		if o := n.of[name][a]; o != nil && !o.lapsed {
			o.placed = true
		}
	}
}

// mention says which names policies mention. It returns those that are not known any more.
func (n *Names) mention(d *domains) (gone []string) {
	n.mu.Lock()
	if old := n.mentioned.Load(); old != nil && old.equal(d) {
		n.mu.Unlock()
		return nil
	}
	n.mentioned.Store(d)
	for name := range n.of {
		if !d.has(name) {
			delete(n.of, name)
			gone = append(gone, name)
		}
	}
	n.change()
	others := n.others
	n.mu.Unlock()
	others()
	return gone
}

// all are the names that are known.
func (n *Names) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for name := range n.of {
		out = append(out, name)
	}
	return out
}

// get returns the addresses of a name.
func (n *Names) get(name string) resolved {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out resolved
	for a, o := range n.of[name] {
		if o.lapsed {
			out.had = append(out.had, a)
		} else {
			out.has = append(out.has, a)
		}
	}
	slices.SortFunc(out.has, netip.Addr.Compare)
	slices.SortFunc(out.had, netip.Addr.Compare)
	return out
}

// start has put called for addresses that come.
func (n *Names) start(put func(ctx context.Context, name string) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.put = put
}

// run ends what is over, tells changed of it, and keeps the file, until ctx ends.
func (n *Names) run(ctx context.Context, changed func(name string)) {
	var sweep, write <-chan time.Time
	var rested time.Time // when the file may be written again
	later := func() {
		if write == nil {
			write = time.After(max(namesKeepAfter, time.Until(rested)))
		}
	}
	for {
		select {
		case <-ctx.Done():
			n.keep()
			return
		case <-n.wake:
			if sweep == nil {
				sweep = time.After(shortestName + namesGrace) // nothing that is new ends before
			}
			later()
		case <-sweep:
			over, next := n.sweep(time.Now())
			for _, name := range over {
				changed(name)
			}
			if sweep = nil; !next.IsZero() {
				sweep = time.After(min(max(time.Until(next), sweepPause), shortestName+namesGrace))
			}
			later()
		case <-write:
			begun := time.Now()
			n.keep()
			write, rested = nil, time.Now().Add(keepShare*time.Since(begun))
		}
	}
}

// sweep ends what is over, and returns the names that it was of and when something is over next; zero is never.
func (n *Names) sweep(now time.Time) (changed []string, next time.Time) {
	due := map[netip.Addr]bool{}
	n.mu.Lock()
	for _, addrs := range n.of {
		for a, o := range addrs {
			if !o.until.After(now) {
				due[a] = false
			}
		}
	}
	n.mu.Unlock()
	if len(due) > 0 && n.standing != nil {
		if err := n.standing.Standing(due); err != nil {
			n.log.Warn("network policy: connections to addresses that names had are cut", "err", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, addrs := range n.of {
		other := false
		for a, o := range addrs {
			if asked := due[a]; !o.until.After(now) {
				if asked {
					other = other || !o.lapsed
					o.until, o.lapsed, o.placed = now.Add(standingEvery), true, false
				} else {
					other = true
					delete(addrs, a)
					continue
				}
			}
			if next.IsZero() || o.until.Before(next) {
				next = o.until
			}
		}
		if other {
			changed = append(changed, name)
			n.changed = true
		}
		if len(addrs) == 0 {
			delete(n.of, name)
		}
	}
	return changed, next
}

// The file.

const namesFormat = 1

type namesFile struct {
	Format    int                                `json:"format"`
	Mentioned []string                           `json:"mentioned"`
	Names     map[string]map[netip.Addr]keptName `json:"names"`
}

type keptName struct {
	Until  int64 `json:"until"` // seconds since 1970
	Lapsed bool  `json:"lapsed,omitempty"`
}

// recall reads the file. A process that wasn't there could not hear that something is a name's still: all of it holds for a moment at least.
func (n *Names) recall(now time.Time) error {
	if n.path == "" {
		return nil
	}
	data, err := os.ReadFile(n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var in namesFile
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err == nil && in.Format != namesFormat {
		err = fmt.Errorf("it is of version %d", in.Format)
	}
	if err != nil {
		return err
	}
	n.mentioned.Store(newDomains(in.Mentioned))
	for name, addrs := range in.Names {
		n.of[name] = map[netip.Addr]*owned{}
		for a, k := range addrs {
			o := &owned{until: now.Add(namesGrace), lapsed: k.Lapsed}
			if until := time.Unix(k.Until, 0); o.until.Before(until) {
				o.until = until
			}
			n.of[name][a] = o
		}
	}
	n.change()
	return nil
}

// keep brings the file up to date.
func (n *Names) keep() {
	n.mu.Lock()
	if !n.changed || n.path == "" {
		n.mu.Unlock()
		return
	}
	n.changed = false
	out := namesFile{Format: namesFormat, Names: map[string]map[netip.Addr]keptName{}}
	if d := n.mentioned.Load(); d != nil {
		out.Mentioned = d.list()
	}
	for name, addrs := range n.of {
		kept := map[netip.Addr]keptName{}
		for a, o := range addrs {
			kept[a] = keptName{o.until.Unix(), o.lapsed}
		}
		out.Names[name] = kept
	}
	n.mu.Unlock()
	var data []byte
	var err error
	if len(out.Mentioned)+len(out.Names) > 0 {
		data, err = json.Marshal(out)
	}
	if err == nil {
		err = keepFile(n.path, data)
	}
	if err != nil {
		n.log.Warn("network policy: addresses of names cannot be kept for a restart", "err", err)
	}
}
