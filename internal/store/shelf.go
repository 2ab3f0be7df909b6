package store

import (
	"sync"
	"sync/atomic"
	"time"
)

// shelfBytes is how many bytes of encodings a store keeps. Nearly all encodings are read within moments of the write: by who wrote, by those who watch, by one who
// lists. Kept for as long as their objects they would be a quarter of what 150,000 pods need.
const shelfBytes = 64 << 20

// makers is how many encodings can be made at once of items that have come to the same place; a power of two.
const makers = 64

// shelf keeps the encodings of items, the newest of them: when there are too many bytes, the oldest go.
type shelf struct {
	limit  int
	now    func() time.Time
	making [makers]sync.Mutex // held while an encoding is made, by revision

	mu    sync.Mutex
	queue []shelved // those before first are gone
	first int
	bytes int
}

type shelved struct {
	encodings *encodings
	size      int
	at        time.Time
}

// encodings are those of one item. What holds them does not hold the item.
type encodings struct{ list atomic.Pointer[encoding] }

// encoding is one link of a short list.
type encoding struct {
	form Form
	data []byte
	next *encoding
}

func (e *encodings) lookup(f Form) ([]byte, bool) {
	if e == nil {
		return nil, false
	}
	for l := e.list.Load(); l != nil; l = l.next {
		if l.form == f {
			return l.data, true
		}
	}
	return nil, false
}

func newShelf(now func() time.Time) *shelf { return &shelf{limit: shelfBytes, now: now} }

// maker is the lock under which encodings of an item of a revision are made. A nil shelf has none.
func (s *shelf) maker(revision int64) sync.Locker {
	if s == nil {
		return &sync.Mutex{}
	}
	return &s.making[uint64(revision)%makers]
}

// keep takes note of an encoding that was made. A nil shelf keeps all.
func (s *shelf) keep(e *encodings, size int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, shelved{e, size, s.now()})
	s.bytes += size
	for s.bytes > s.limit {
		s.drop()
	}
	if s.first > len(s.queue)/2 {
		s.shift()
	}
}

// drop drops the encodings of the item whose came first. The lock is held.
func (s *shelf) drop() {
	old := &s.queue[s.first]
	old.encodings.list.Store(nil)
	s.bytes -= old.size
	*old = shelved{}
	s.first++
}

// shift makes room at the end of the queue. The lock is held.
func (s *shelf) shift() {
	n := copy(s.queue, s.queue[s.first:])
	clear(s.queue[n:])
	s.queue, s.first = s.queue[:n], 0
}

// trim drops what was made before a time, and gives memory back.
func (s *shelf) trim(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.first < len(s.queue) && s.queue[s.first].at.Before(before) {
		s.drop()
	}
	s.shift()
	if cap(s.queue) > 4*len(s.queue) {
		s.queue = append([]shelved(nil), s.queue...)
	}
}
