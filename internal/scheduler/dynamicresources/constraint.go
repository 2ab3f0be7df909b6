package dynamicresources

import (
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

// attribute is a value that can be compared.
type attribute struct {
	kind byte
	n    int64
	text string
}

// attributeOf returns a device's attribute by its full name; the driver's own may be published without their domain.
func (d *device) attributeOf(name string) (attribute, bool) {
	a, ok := d.Attributes[resourcev1.QualifiedName(name)]
	if !ok {
		domain, id, cut := strings.Cut(name, "/")
		if !cut || domain != d.id.Driver {
			return attribute{}, false
		}
		if a, ok = d.Attributes[resourcev1.QualifiedName(id)]; !ok {
			return attribute{}, false
		}
	}
	switch {
	case a.IntValue != nil:
		return attribute{kind: 'i', n: *a.IntValue}, true
	case a.BoolValue != nil:
		out := attribute{kind: 'b'}
		if *a.BoolValue {
			out.n = 1
		}
		return out, true
	case a.StringValue != nil:
		return attribute{kind: 's', text: *a.StringValue}, true
	case a.VersionValue != nil:
		return attribute{kind: 'v', text: *a.VersionValue}, true
	}
	return attribute{}, false
}

// constraint is what the devices of a claim must have in common, or must not.
type constraint struct {
	claim    int
	name     string // of the attribute
	distinct bool
	requests []string // none means all
	// values are those of the devices that were chosen.
	values []attribute
}

func (c *constraint) concerns(o *option) bool {
	return c.claim == o.claim && (len(c.requests) == 0 || slices.Contains(c.requests, o.main) || slices.Contains(c.requests, o.name))
}

// add takes a device if that is compatible with those before it.
func (c *constraint) add(d *device) bool {
	val, ok := d.attributeOf(c.name)
	switch {
	case !ok:
		return false
	case c.distinct && slices.Contains(c.values, val):
		return false
	case !c.distinct && len(c.values) > 0 && c.values[0] != val:
		return false
	}
	c.values = append(c.values, val)
	return true
}

func (c *constraint) drop() { c.values = c.values[:len(c.values)-1] }
