package share

import (
	"sync"
	"unsafe" // to tell equal texts from the same
)

// maxParts and maxWords bound tables: templates are few, words not many. What was shared when a full table is emptied stays shared.
const (
	maxParts = 1024
	maxWords = 16384
)

// table remembers parts of objects by their stored bytes.
type table[T any] struct {
	mu    sync.RWMutex
	parts map[string]T // guarded by mu
}

// find returns the part that was remembered of these bytes, if any was.
func (t *table[T]) find(stored []byte) (part T, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	part, ok = t.parts[string(stored)]
	return part, ok
}

// of returns the part that was remembered of these bytes first; that may be own.
func (t *table[T]) of(stored []byte, own T) T {
	if part, ok := t.find(stored); ok {
		return part
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if part, ok := t.parts[string(stored)]; ok {
		return part
	}
	if t.parts == nil || len(t.parts) >= maxParts {
		t.parts = make(map[string]T)
	}
	t.parts[string(stored)] = own
	return own
}

// words remembers short texts.
type words struct {
	mu  sync.RWMutex
	all map[string]string // guarded by mu
}

// maxWord is the length in bytes from which a text is not taken for a word.
const maxWord = 64

// share replaces texts by equal ones. It says whether there was anything to replace.
func (w *words) share(texts ...*string) (replaced bool) {
	missing := false
	w.mu.RLock()
	for _, s := range texts {
		if word, ok := w.all[*s]; ok {
			replaced = replace(s, word) || replaced
		} else if isWord(*s) {
			missing = true
		}
	}
	w.mu.RUnlock()
	if !missing {
		return replaced
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range texts {
		if !isWord(*s) {
			continue
		}
		if word, ok := w.all[*s]; ok {
			replaced = replace(s, word) || replaced
			continue
		}
		if w.all == nil || len(w.all) >= maxWords {
			w.all = make(map[string]string)
		}
		w.all[*s] = *s
	}
	return replaced
}

func isWord(s string) bool { return s != "" && len(s) < maxWord }

// replace replaces a text by an equal one, unless it is the same.
func replace(s *string, word string) bool {
	if unsafe.StringData(*s) == unsafe.StringData(word) {
		return false
	}
	*s = word
	return true
}

// fields calls each with the fields of a protobuf message: their numbers, their values if they have a length, and the whole of them. False: it is none.
func fields(message []byte, each func(number uint64, value, whole []byte)) bool {
	for len(message) > 0 {
		tag, n := uvarint(message)
		if n <= 0 {
			return false
		}
		at := n
		var value []byte
		switch tag & 7 {
		case 0:
			_, n := uvarint(message[at:])
			if n <= 0 {
				return false
			}
			at += n
		case 1:
			at += 8
		case 2:
			size, n := uvarint(message[at:])
			if n <= 0 || size > uint64(len(message)-at-n) {
				return false
			}
			at += n
			value = message[at : at+int(size)]
			at += int(size)
		case 5:
			at += 4
		default:
			return false
		}
		if at > len(message) {
			return false
		}
		each(tag>>3, value, message[:at])
		message = message[at:]
	}
	return true
}

func uvarint(b []byte) (uint64, int) {
	var v uint64
	for i := 0; i < len(b) && i < 10; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// stored begins every value that is stored in protobuf.
const stored = "k8s\x00"

// message is the message of a stored value, nil if it isn't protobuf.
func message(value []byte) (raw []byte) {
	if len(value) < len(stored) || string(value[:len(stored)]) != stored {
		return nil
	}
	if !fields(value[len(stored):], func(number uint64, value, _ []byte) {
		if number == 2 {
			raw = value
		}
	}) {
		return nil
	}
	return raw
}
