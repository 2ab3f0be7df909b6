package policy

import "net/netip"

// Shortcut is a way between pods of this node on which no rule is asked.
type Shortcut interface {
	// Narrow closes it to restricted addresses. When it has returned without an error, no packet takes it that wasn't on its way before.
	Narrow(restricted func(netip.Addr) bool) error
	// Widen opens it to the addresses of pods that are not restricted.
	Widen(restricted func(netip.Addr) bool) error
}

// WithShortcut is a datapath beside which there is a shortcut: pods that are restricted are off it before their rules come into force, others are let on it afterwards.
func WithShortcut(d Datapath, s Shortcut) Datapath { return besideShortcut{d, s} }

type besideShortcut struct {
	Datapath
	shortcut Shortcut
}

// Replace implements Datapath.
func (d besideShortcut) Replace(want *Desired) error {
	return d.around(want, func() error { return d.Datapath.Replace(want) })
}

// Update implements Datapath.
func (d besideShortcut) Update(want *Desired, dirty *Dirty) error {
	return d.around(want, func() error { return d.Datapath.Update(want, dirty) })
}

func (d besideShortcut) around(want *Desired, change func() error) error {
	restricted := func(a netip.Addr) bool {
		_, is := want.Pods[a]
		return is
	}
	if err := d.shortcut.Narrow(restricted); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return d.shortcut.Widen(restricted)
}
