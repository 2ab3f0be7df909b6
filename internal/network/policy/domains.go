package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// domains are names of the DNS, in lower case and without a final dot: whole ones, and all below some.
type domains struct {
	whole map[string]struct{}
	below map[string]struct{}
}

// anyBelow begins the domain name that stands for one or more labels before the rest.
const anyBelow = "*."

func newDomains(list []string) *domains {
	d := &domains{whole: map[string]struct{}{}, below: map[string]struct{}{}}
	for _, text := range list {
		if rest, ok := strings.CutPrefix(text, anyBelow); ok {
			d.below[rest] = struct{}{}
		} else {
			d.whole[text] = struct{}{}
		}
	}
	return d
}

// has says whether a name is one of them.
func (d *domains) has(name string) bool {
	if _, ok := d.whole[name]; ok {
		return true
	}
	if len(d.below) == 0 {
		return false
	}
	for {
		_, rest, more := strings.Cut(name, ".")
		if !more {
			return false
		}
		if _, ok := d.below[rest]; ok {
			return true
		}
		name = rest
	}
}

func (d *domains) equal(o *domains) bool {
	return maps.Equal(d.whole, o.whole) && maps.Equal(d.below, o.below)
}

// list is what newDomains makes them of, sorted.
func (d *domains) list() []string {
	out := slices.Collect(maps.Keys(d.whole))
	for n := range d.below {
		out = append(out, anyBelow+n)
	}
	slices.Sort(out)
	return out
}

// Limits of names in the DNS (RFC 1035, 2.3.4).
const (
	maxDomain = 253
	maxLabel  = 63
)

// parseDomain reads a domain name of the API: letters, digits, hyphens and underscores in two labels or more, perhaps with "*." before them.
func parseDomain(text string) (string, error) {
	n := strings.ToLower(strings.TrimSuffix(text, "."))
	rest := strings.TrimPrefix(n, anyBelow)
	labels := strings.Split(rest, ".")
	wrong := len(labels) < 2 || len(rest) > maxDomain
	for _, l := range labels {
		wrong = wrong || l == "" || len(l) > maxLabel || l[0] == '-' || l[0] == '_' || strings.HasSuffix(l, "-") || strings.HasSuffix(l, "_") ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
	}
	if wrong {
		return "", fmt.Errorf("%q is no domain name", text)
	}
	return n, nil
}
