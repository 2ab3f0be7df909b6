package owners

import (
	"bytes"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxOutlines bounds what is remembered: objects made by a controller have few outlines, those made by hand are few.
const maxOutlines = 1024

// maxCounted is the number of entries from which the library begins to merge old ones by their age, which no outline says.
const maxCounted = 10

// Outcome is what the library made of the managed fields of an object: the entries, and where each has its time from.
type Outcome struct {
	Entries []metav1.ManagedFieldsEntry // without times
	times   []int                       // indexes of entries before, or one of those below
	texts   [][]byte                    // with holes, of entries that have them; nil if none has
}

const (
	timeNow  = -1
	timeNone = -2 // an applied configuration that changed nothing
)

// Outcomes remembers outcomes by outline; a nil one means "ask the library". The zero value is ready; safe for concurrent use.
type Outcomes struct {
	mu        sync.RWMutex
	byOutline map[string]*Outcome // guarded by mu
}

// Get returns what is remembered of an outline.
func (c *Outcomes) Get(outline []byte) (*Outcome, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	o, ok := c.byOutline[string(outline)]
	return o, ok
}

// Put remembers an outcome; o may be nil.
func (c *Outcomes) Put(outline []byte, o *Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byOutline == nil || len(c.byOutline) >= maxOutlines {
		c.byOutline = make(map[string]*Outcome)
	}
	c.byOutline[string(outline)] = o
}

// sentinel is a time that no entry has: the library hands it on with the entry whose it is.
func sentinel(i int) *metav1.Time {
	t := metav1.Unix(int64(1+i), 0)
	return &t
}

// Marked returns a copy of entries with sentinels for times.
func Marked(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	entries = slices.Clone(entries)
	for i := range entries {
		entries[i].Time = sentinel(i)
	}
	return entries
}

// OutcomeOf reads the outcome off entries that the library made of marked ones.
func OutcomeOf(entries []metav1.ManagedFieldsEntry) *Outcome {
	o := &Outcome{Entries: slices.Clone(entries), times: make([]int, len(entries))}
	for i := range o.Entries {
		e := &o.Entries[i]
		switch {
		case e.Time == nil:
			o.times[i] = timeNone
		case e.Time.Unix() <= maxCounted:
			o.times[i] = int(e.Time.Unix()) - 1
		default:
			o.times[i] = timeNow
		}
		e.Time = nil
	}
	return o
}

// Abstract has an outcome hold for other values of the individual items that its outline numbers. False: it is of other items, too, and can't be remembered.
func (o *Outcome) Abstract(v *Individuals) bool {
	known := len(v.values)
	for i := range o.Entries {
		text, ok := holes(nil, o.Entries[i].FieldsV1.GetRawBytes(), v)
		if !ok || len(v.values) > known {
			v.values, o.texts = v.values[:known], nil
			return false
		}
		if text == nil {
			continue
		}
		if o.texts == nil {
			o.texts = make([][]byte, len(o.Entries))
		}
		o.texts[i] = text
	}
	return true
}

// Of returns the entries that follow on those before.
func (o *Outcome) Of(before []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	return o.For(before, nil)
}

// For is Of where the individual items have these values, if the outcome is abstract.
func (o *Outcome) For(before []metav1.ManagedFieldsEntry, v *Individuals) []metav1.ManagedFieldsEntry {
	if len(o.Entries) == 0 {
		return nil
	}
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	entries := slices.Clone(o.Entries)
	for i, from := range o.times {
		switch from {
		case timeNow:
			entries[i].Time = &now
		case timeNone:
		default:
			entries[i].Time = before[from].Time
		}
	}
	for i, text := range o.texts {
		if text != nil {
			entries[i].FieldsV1 = fieldsOf(v.fill(text), before)
		}
	}
	slices.SortStableFunc(entries, Compare)
	return entries
}

// fieldsOf is the FieldsV1 of a text: that of an entry before, if it has not changed, so that objects share it.
func fieldsOf(text []byte, before []metav1.ManagedFieldsEntry) *metav1.FieldsV1 {
	for i := range before {
		if have := before[i].FieldsV1; bytes.Equal(have.GetRawBytes(), text) {
			return have
		}
	}
	f := &metav1.FieldsV1{}
	f.SetRawBytes(text)
	return f
}
