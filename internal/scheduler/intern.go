package scheduler

import "strconv"

// table gives equal values equal small numbers, counted from 0. It only grows: what it holds (keys and values of labels, names of
// resources) has few distinct values compared to what refers to it.
type table[K comparable] struct {
	ids    map[K]uint32
	values []K
}

func (t *table[K]) id(k K) uint32 {
	if id, ok := t.ids[k]; ok {
		return id
	}
	if t.ids == nil {
		t.ids = map[K]uint32{}
	}
	id := uint32(len(t.values))
	t.ids[k] = id
	t.values = append(t.values, k)
	return id
}

// label is an interned label: ids of its key and value in the snapshot's strings.
type label struct{ key, value uint32 }

// interned holds the tables of a snapshot.
type interned struct {
	strings   table[string]
	taints    table[taint]
	resources table[string]
	images    table[string]
}

// taint is a node's taint, without the time it was added.
type taint struct{ key, value, effect string }

// number reads an interned string as the whole number that Gt and Lt compare.
func (i *interned) number(id uint32) (int64, bool) {
	n, err := strconv.ParseInt(i.strings.values[id], 10, 64)
	return n, err == nil
}
