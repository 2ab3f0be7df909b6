package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// pendingTimeout is how long a write may stay unseen before it is believed lost (an informer that was cut off sees a deletion
// only as an absence). Upstream waits as long.
const pendingTimeout = 5 * time.Minute

// Pending remembers, per key, the objects that a controller has created or deleted and whose events its informer has not
// delivered yet. While something is pending the informer's view is behind the controller's own writes, and acting on it would create or
// delete twice. It knows objects by uid, so neither a repeated nor a missed event confuses it. All methods may be called from many
// goroutines.
type Pending struct {
	clock clock.PassiveClock

	mu   sync.Mutex // guards all below
	keys map[string]map[types.UID]write
	uids map[types.UID]string // the key that waits for a uid
	// creating counts calls of Create under way; early holds what was delivered meanwhile, for a watch may be faster than the answer.
	creating int
	early    map[types.UID]bool
}

// write is one recorded write.
type write struct {
	deletion bool
	at       time.Time
}

// NewPending returns an empty record.
func NewPending(c clock.PassiveClock) *Pending {
	return &Pending{clock: c, keys: map[string]map[types.UID]write{}, uids: map[types.UID]string{}, early: map[types.UID]bool{}}
}

// Create calls create and records the uid that it returns for key.
func (p *Pending) Create(key string, create func() (types.UID, error)) error {
	p.mu.Lock()
	p.creating++
	p.mu.Unlock()
	uid, err := create()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && !p.early[uid] {
		p.record(key, uid, false)
	}
	if p.creating--; p.creating == 0 {
		clear(p.early)
	}
	return err
}

// Delete records the deletion of uid for key and calls del; when that fails nothing stays recorded.
func (p *Pending) Delete(key string, uid types.UID, del func() error) error {
	p.mu.Lock()
	p.record(key, uid, true)
	p.mu.Unlock()
	err := del()
	if err != nil {
		p.ObserveDeleted(uid)
	}
	return err
}

func (p *Pending) record(key string, uid types.UID, deletion bool) {
	if p.keys[key] == nil {
		p.keys[key] = map[types.UID]write{}
	}
	p.keys[key][uid] = write{deletion: deletion, at: p.clock.Now()}
	p.uids[uid] = key
}

// ObserveCreated tells that an informer has delivered uid.
func (p *Pending) ObserveCreated(uid types.UID) { p.observe(uid, false) }

// ObserveDeleted tells that an informer has delivered uid as gone or going (with a deletion timestamp).
func (p *Pending) ObserveDeleted(uid types.UID) { p.observe(uid, true) }

func (p *Pending) observe(uid types.UID, deletion bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.creating > 0 {
		p.early[uid] = true
	}
	key, waiting := p.uids[uid]
	if waiting && (deletion || !p.keys[key][uid].deletion) {
		p.remove(key, uid)
	}
}

func (p *Pending) remove(key string, uid types.UID) {
	delete(p.uids, uid)
	delete(p.keys[key], uid)
	if len(p.keys[key]) == 0 {
		delete(p.keys, key)
	}
}

// Settled says that every recorded write of key has been seen, or was given up.
func (p *Pending) Settled(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, w := range p.keys[key] {
		if p.clock.Since(w.at) > pendingTimeout {
			p.remove(key, uid)
		}
	}
	return len(p.keys[key]) == 0
}

// Forget drops what is recorded for key, when its object is gone.
func (p *Pending) Forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := range p.keys[key] {
		p.remove(key, uid)
	}
}
