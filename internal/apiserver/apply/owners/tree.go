package owners

import (
	"encoding/json"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Tree is a FieldsV1 that can be asked. Immutable once built.
type Tree struct {
	// ID names the whole tree among all that Trees have seen; of a part it is 0.
	ID       uint64
	member   bool // the field itself is owned
	odd      bool // no outline can tell what is in it; only of a whole tree
	children map[string]*Tree
}

// Owns says whether the field at a path is owned.
func (t *Tree) Owns(path []string) bool {
	for _, p := range path {
		if t = t.children[p]; t == nil {
			return false
		}
	}
	return t.member
}

// Covers says whether all that other owns is owned here too.
func (t *Tree) Covers(other *Tree) bool {
	if other.member && !t.member {
		return false
	}
	for name, child := range other.children {
		if c := t.children[name]; c == nil || !c.Covers(child) {
			return false
		}
	}
	return true
}

// parseTree reads a FieldsV1; nil if it is none.
func parseTree(raw []byte) *Tree {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	t := &Tree{}
	if len(m) == 0 {
		t.member = true
		return t
	}
	t.children = make(map[string]*Tree, len(m))
	for k, v := range m {
		if k == "." {
			t.member = true
			continue
		}
		c := parseTree(v)
		if c == nil {
			return nil
		}
		t.children[k] = c
	}
	return t
}

// maxTrees bounds the cache below; objects made from one template share a tree, so there are few.
const maxTrees = 4096

// Trees remembers parsed FieldsV1 by their text. The zero value is ready; safe for concurrent use.
type Trees struct {
	mu     sync.RWMutex
	byText map[string]*Tree // guarded by mu
	last   uint64           // guarded by mu: the newest id
}

// Of returns what an entry owns, under the names that it has in the entry; nil if that can't be read.
func (c *Trees) Of(f *metav1.FieldsV1) *Tree {
	raw := f.GetRawBytes()
	return c.of(raw, raw, nil)
}

// of returns the tree of a text, which is raw with holes for the individuals.
func (c *Trees) of(text, raw []byte, v *Individuals) *Tree {
	c.mu.RLock()
	t := c.byText[string(text)]
	c.mu.RUnlock()
	if t != nil {
		return t
	}
	if t = parseTree(raw); t == nil {
		return nil
	}
	if v == nil {
		v = &Individuals{}
	}
	t.odd = !t.holed(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.byText[string(text)]; known != nil {
		return known
	}
	if c.byText == nil || len(c.byText) >= maxTrees {
		c.byText = make(map[string]*Tree)
	}
	c.last++
	t.ID = c.last
	c.byText[string(text)] = t
	return t
}
