package owners

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Items of lists that are keyed by an address or a UID alone (the addresses of a pod, the owners of an object) have names that no other object has:
// k:{"ip":"10.0.0.1"}. What the library says of them depends on where the same value comes again, and on which of two sorts first, but not on the value
// itself. So texts are remembered with holes in the place of such values; a hole is a letter that no JSON has, and a number.

const hole = 0

// individualKeys are the names of these keys.
var individualKeys = [...]string{"ip", "uid"}

// maxIndividuals is how many values one outline may have; with more it can't be told.
const maxIndividuals = 64

// Individual takes the name of such an item apart: k:{"ip":"10.0.0.1"} is the value 10.0.0.1 of the key ip.
func Individual(name string) (key, value string, ok bool) {
	rest, ok := strings.CutPrefix(name, `k:{"`)
	if !ok {
		return "", "", false
	}
	for _, key := range individualKeys {
		if value, ok := strings.CutPrefix(rest, key); ok {
			if value, ok = strings.CutPrefix(value, `":"`); ok {
				if value, ok = strings.CutSuffix(value, `"}`); ok && plain(value) {
					return key, value, true
				}
			}
		}
	}
	return "", "", false
}

// IsIndividual says whether a list that is keyed by this key alone has individual items.
func IsIndividual(key string) bool { return slices.Contains(individualKeys[:], key) }

// plain says whether a value is the same in JSON, and in JSON within JSON.
func plain[T string | []byte](value T) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return len(value) > 0
}

// Individuals numbers values in the order in which they are first seen.
type Individuals struct{ values []string }

// Number is the number of a value. Not ok: there are too many.
func (v *Individuals) Number(value string) (byte, bool) {
	i := slices.Index(v.values, value)
	if i < 0 {
		if i = len(v.values); i >= maxIndividuals {
			return 0, false
		}
		v.values = append(v.values, value)
	}
	return byte(i), true
}

// AppendOrder ends an outline with how the values sort.
func (v *Individuals) AppendOrder(b []byte) []byte {
	if len(v.values) < 2 {
		return b
	}
	sorted := slices.Sorted(slices.Values(v.values))
	for _, value := range v.values {
		i, _ := slices.BinarySearch(sorted, value)
		b = append(b, byte(i))
	}
	return b
}

// marks are how the keys of such items begin in the text of a FieldsV1, which is JSON within JSON.
var marks = func() (out [len(individualKeys)][]byte) {
	for i, key := range individualKeys {
		out[i] = []byte(`"k:{\"` + key + `\":\"`)
	}
	return out
}()

var markEnd = []byte(`\"}"`)

// holes appends the text of a FieldsV1 to dst with numbered holes for the values of individual items, and says what is in them. Without any it appends
// nothing. Not ok: there are too many.
func holes(dst, raw []byte, v *Individuals) (text []byte, ok bool) {
	from := 0
	for from < len(raw) {
		at, end := nextIndividual(raw[from:])
		if at < 0 {
			break
		}
		n, ok := v.Number(string(raw[from+at : from+end]))
		if !ok {
			return nil, false
		}
		dst = append(append(dst, raw[from:from+at]...), hole, n)
		from += end
	}
	if from == 0 {
		return dst, true
	}
	return append(dst, raw[from:]...), true
}

// nextIndividual is where the next value begins and ends; at is negative if there is none.
func nextIndividual(raw []byte) (at, end int) {
	for skipped := 0; ; {
		first, size := -1, 0
		for _, m := range marks {
			if i := bytes.Index(raw[skipped:], m); i >= 0 && (first < 0 || i < first) {
				first, size = i, len(m)
			}
		}
		if first < 0 {
			return -1, 0
		}
		at = skipped + first + size
		if n := bytes.Index(raw[at:], markEnd); n > 0 && plain(raw[at:at+n]) {
			return at, at + n
		}
		skipped = at
	}
}

// fill puts values into the holes of a text.
func (v *Individuals) fill(text []byte) []byte {
	size := len(text)
	for _, value := range v.values {
		size += len(value)
	}
	out := make([]byte, 0, size)
	for {
		i := bytes.IndexByte(text, hole)
		if i < 0 {
			return append(out, text...)
		}
		out = append(append(out, text[:i]...), v.values[text[i+1]]...)
		text = text[i+2:]
	}
}

// holed names the items of a tree as its text with holes does. False: there is a name that nearly looks like one of an individual item, of which nothing can be
// said.
func (t *Tree) holed(v *Individuals) bool {
	var renamed map[string]*Tree
	for name, child := range t.children {
		if !child.holed(v) {
			return false
		}
		if _, value, ok := Individual(name); ok {
			i := slices.Index(v.values, value)
			if i < 0 {
				return false
			}
			if renamed == nil {
				renamed = make(map[string]*Tree, len(t.children))
			}
			renamed[holeName(name, value, byte(i))] = child
			continue
		}
		if strings.HasPrefix(name, "k:") && (strings.Contains(name, `\`) || alone(name)) {
			return false
		}
	}
	if renamed == nil {
		return true
	}
	for name, child := range t.children {
		if _, _, ok := Individual(name); !ok {
			renamed[name] = child
		}
	}
	t.children = renamed
	return true
}

// alone says whether a name has only one key, and that an individual one.
func alone(name string) bool {
	if strings.Contains(name, ",") {
		return false
	}
	for _, key := range individualKeys {
		if strings.Contains(name, `"`+key+`"`) {
			return true
		}
	}
	return false
}

func holeName(name, value string, n byte) string {
	return name[:len(name)-len(value)-len(`"}`)] + string([]byte{hole, n}) + `"}`
}

// Owned is what an entry owns, and what its individual items are.
type Owned struct {
	tree *Tree
	in   Individuals
}

// Owned returns what an entry owns. Not ok: that can't be read.
func (c *Trees) Owned(f *metav1.FieldsV1) (Owned, bool) {
	raw := f.GetRawBytes()
	var o Owned
	text, ok := holes(nil, raw, &o.in)
	if !ok {
		return o, false
	}
	if len(o.in.values) == 0 {
		text = raw
	}
	o.tree = c.of(text, raw, &o.in)
	return o, o.tree != nil && !o.tree.odd
}

// Owns says whether the field at a path is owned.
func (o *Owned) Owns(path []string) bool {
	t := o.tree
	for _, name := range path {
		if _, value, ok := Individual(name); ok {
			i := slices.Index(o.in.values, value)
			if i < 0 {
				return false
			}
			name = holeName(name, value, byte(i))
		}
		if t = t.children[name]; t == nil {
			return false
		}
	}
	return t.member
}

// AppendOwned appends to an outline who has written what, with numbers for the individual items.
func (c *Trees) AppendOwned(b []byte, manager string, entries []metav1.ManagedFieldsEntry, v *Individuals) (outline []byte, ok bool) {
	if b, ok = appendText(b, manager); !ok {
		return nil, false
	}
	for i := range entries {
		e := &entries[i]
		owned, ok := c.Owned(e.FieldsV1)
		if !ok {
			return nil, false
		}
		for _, text := range [...]string{e.Manager, string(e.Operation), e.Subresource} {
			if b, ok = appendText(b, text); !ok {
				return nil, false
			}
		}
		b = binary.BigEndian.AppendUint64(b, owned.tree.ID)
		for _, value := range owned.in.values {
			n, ok := v.Number(value)
			if !ok {
				return nil, false
			}
			b = append(b, n)
		}
	}
	return append(b, endOfEntries), true
}
