package backoff

import (
	"maps"
	"strings"
	"sync"
	"time"
)

// Backoff doubles a delay per key from Base to Max. An entry whose last failure is older than twice Max is forgotten: the
// thing ran well for long enough. All methods are safe for concurrent use.
type Backoff struct {
	base, max time.Duration

	mu      sync.Mutex
	entries map[string]entry
}

type entry struct {
	delay   time.Duration
	updated time.Time
}

// New makes a Backoff. For containers base is 10 s and max 5 min.
func New(base, max time.Duration) *Backoff {
	return &Backoff{base: base, max: max, entries: map[string]entry{}}
}

// Until tells when the thing that failed at "since" may be tried again and the delay that it waits for; the zero time
// says at once.
func (b *Backoff) Until(key string, since, now time.Time) (time.Time, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	if !ok || since.Sub(e.updated) > 2*b.max {
		return time.Time{}, 0
	}
	until := since.Add(e.delay)
	if !now.Before(until) {
		return time.Time{}, 0
	}
	return until, e.delay
}

// Next notes a new try after a failure at "since": the following one waits twice as long.
func (b *Backoff) Next(key string, since, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	if !ok || since.Sub(e.updated) > 2*b.max {
		b.entries[key] = entry{delay: b.base, updated: now}
		return
	}
	b.entries[key] = entry{delay: min(2*e.delay, b.max), updated: now}
}

// ForgetAll drops all keys that begin with the prefix.
func (b *Backoff) ForgetAll(prefix string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.entries, func(key string, _ entry) bool { return strings.HasPrefix(key, prefix) })
}

// Forget drops the key.
func (b *Backoff) Forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, key)
}

// At is when the key's present delay ends, counted from its last failure.
func (b *Backoff) At(key string) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[key]
	return e.updated.Add(e.delay), ok
}
