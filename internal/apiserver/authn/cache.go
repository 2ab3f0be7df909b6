package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"sync"
)

// generations remembers values by key, within a bound: when the young half is full, the old half is forgotten. What is used
// stays.
type generations[K comparable, V any] struct {
	limit int

	mu         sync.RWMutex
	young, old map[K]V // guarded by mu
}

func newGenerations[K comparable, V any](limit int) *generations[K, V] {
	return &generations[K, V]{limit: limit, young: map[K]V{}}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	g.mu.RLock()
	v, ok := g.young[k]
	if ok {
		g.mu.RUnlock()
		return v, true
	}
	v, ok = g.old[k]
	g.mu.RUnlock()
	if ok {
		g.put(k, v)
	}
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.young) >= g.limit/2 {
		g.old, g.young = g.young, make(map[K]V, g.limit/2)
	}
	g.young[k] = v
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
