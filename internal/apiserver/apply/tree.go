package apply

import (
	"encoding/json"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tree is a FieldsV1 that can be asked. Immutable once built.
type tree struct {
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
	if c.byText == nil || len(c.byText) >= maxTrees {
		c.byText = make(map[string]*tree)
	}
	c.byText[string(raw)] = t
	return t
}
