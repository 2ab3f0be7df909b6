package apply

import (
	"encoding/json"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tree is a FieldsV1 that can be asked. Immutable once built.
type tree struct {
	// id names the whole tree among all that a tracker has seen; of a part it is 0.
	id       uint64
	member   bool // the field itself is owned
	children map[string]*tree
}

// owns says whether the field at a path is owned.
func (t *tree) owns(path []string) bool {
	for _, p := range path {
		if t = t.children[p]; t == nil {
			return false
		}
	}
	return t.member
}

// covers says whether all that other owns is owned here too.
func (t *tree) covers(other *tree) bool {
	if other.member && !t.member {
		return false
	}
	for name, child := range other.children {
		if c := t.children[name]; c == nil || !c.covers(child) {
			return false
		}
	}
	return true
}

// parseTree reads a FieldsV1; nil if it is none.
func parseTree(raw []byte) *tree {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	t := &tree{}
	if len(m) == 0 {
		t.member = true
		return t
	}
	t.children = make(map[string]*tree, len(m))
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

// trees remembers parsed FieldsV1 by their text.
type trees struct {
	mu     sync.RWMutex
	byText map[string]*tree // guarded by mu
	last   uint64           // guarded by mu: the newest id
}

func (c *trees) of(f *metav1.FieldsV1) *tree {
	raw := f.GetRawBytes()
	c.mu.RLock()
	t := c.byText[string(raw)]
	c.mu.RUnlock()
	if t != nil {
		return t
	}
	if t = parseTree(raw); t == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.byText[string(raw)]; known != nil {
		return known
	}
	if c.byText == nil || len(c.byText) >= maxTrees {
		c.byText = make(map[string]*tree)
	}
	c.last++
	t.id = c.last
	c.byText[string(raw)] = t
	return t
}
