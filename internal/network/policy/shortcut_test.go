package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// diary is a datapath and a shortcut that write down in which order they are told what.
type diary struct {
	None
	lines []string
	fails string
}

func (d *diary) note(what string) error {
	d.lines = append(d.lines, what)
	if what == d.fails {
		return errors.New("it fails")
	}
	return nil
}

func (d *diary) Replace(*Desired) error        { return d.note("replace") }
func (d *diary) Update(*Desired, *Dirty) error { return d.note("update") }
func (d *diary) Narrow(restricted func(netip.Addr) bool) error {
	return d.note(fmt.Sprint("narrow ", restricted(netip.MustParseAddr("10.0.0.1")), restricted(netip.MustParseAddr("10.0.0.2"))))
}

func (d *diary) Widen(restricted func(netip.Addr) bool) error {
	return d.note(fmt.Sprint("widen ", restricted(netip.MustParseAddr("10.0.0.1")), restricted(netip.MustParseAddr("10.0.0.2"))))
}

func TestShortcutOrder(t *testing.T) {
	want := newDesired()
	want.Pods[netip.MustParseAddr("10.0.0.1")] = Restriction{closed, ""}
	for _, tt := range []struct {
		fails string
		want  []string
	}{
		{"", []string{"narrow true false", "replace", "widen true false", "narrow true false", "update", "widen true false"}},
		{"narrow true false", []string{"narrow true false", "narrow true false"}},
		{"replace", []string{"narrow true false", "replace", "narrow true false", "update", "widen true false"}},
		{"update", []string{"narrow true false", "replace", "widen true false", "narrow true false", "update"}},
	} {
		d := &diary{fails: tt.fails}
		both := WithShortcut(d, d)
		err := errors.Join(both.Replace(want), both.Update(want, newDirty()))
		if !slices.Equal(d.lines, tt.want) || (err != nil) != (tt.fails != "") {
			t.Errorf("%q fails: %q, %v", tt.fails, d.lines, err)
		}
	}
}
