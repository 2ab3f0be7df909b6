package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/celox/celox/internal/atomicfile"
)

const (
	// keepFormat is the version of the file.
	keepFormat = 1
	// keepAfter is how long changes are gathered before the file is written, and keepShare how many times longer than writing takes at least.
	keepAfter = 2 * time.Second
	keepShare = 100
)

// memoir is what was in force, for a time in which the API cannot say what should be.
type memoir struct {
	Format int                    `json:"format"`
	Sets   map[string]memoirSet   `json:"sets,omitempty"`
	Chains map[string]*Chain      `json:"chains,omitempty"`
	Boxes  map[string]Restriction `json:"sandboxes"` // also of those that are free
}

type memoirSet struct {
	Kind     SetKind   `json:"kind"`
	Elements []Element `json:"elements,omitempty"`
}

// memoir is nil when nobody is restricted.
func (s *state) memoir() *memoir {
	if len(s.desired.Pods) == 0 {
		return nil
	}
	m := &memoir{Format: keepFormat, Sets: map[string]memoirSet{}, Chains: s.desired.Chains, Boxes: map[string]Restriction{}}
	for n, set := range s.desired.Sets {
		out := memoirSet{Kind: set.Kind, Elements: make([]Element, 0, len(set.Elements))}
		for e := range set.Elements {
			out.Elements = append(out.Elements, e)
		}
		m.Sets[n] = out
	}
	for id, box := range s.sandboxes {
		m.Boxes[id] = s.namespaces[box.pod.namespace].local[box.pod.name].chains
	}
	return m
}

// desired is what should be in force for sandboxes by what is remembered. One that is not known is shut in.
func (m *memoir) desired(boxes []Sandbox) *Desired {
	out := newDesired()
	for n, set := range m.Sets {
		has := map[Element]int{}
		for _, e := range set.Elements {
			has[e] = 1
		}
		out.Sets[n] = &Set{Kind: set.Kind, Elements: has}
	}
	if m.Chains != nil {
		out.Chains = m.Chains
	}
	for _, b := range boxes {
		r, known := m.Boxes[b.ID]
		if !known {
			r = Restriction{closed, closed}
		}
		if r == (Restriction{}) {
			continue
		}
		for _, a := range b.Addrs {
			out.Pods[a] = r
		}
	}
	return out
}

// whole says whether all that is named is there.
func (m *memoir) whole() bool {
	for _, r := range m.Boxes {
		for _, c := range r {
			if c != "" && c != closed && m.Chains[c] == nil {
				return false
			}
		}
	}
	for _, c := range m.Chains {
		if c == nil {
			return false
		}
		for _, rules := range [][]Rule{c.Admin, c.Rest} {
			for _, r := range rules {
				if _, there := m.Sets[r.Set]; r.Set != "" && !there {
					return false
				}
			}
		}
	}
	return m.Format == keepFormat
}

// recall reads the file. Without one nobody was restricted, and it returns nil; one that says nothing of use lets nobody out.
func recall(path string) (*memoir, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m := &memoir{}
	if err == nil {
		err = json.Unmarshal(data, m)
	}
	if err == nil && !m.whole() {
		err = errors.New("it is damaged, or of another version")
	}
	if err != nil {
		return &memoir{Format: keepFormat}, fmt.Errorf("what was in force before: %s: %w", path, err)
	}
	return m, nil
}

// keep writes the file, or removes it.
func (m *memoir) keep(path string) error {
	if m == nil {
		return keepFile(path, nil)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return keepFile(path, data)
}

// keepFile writes a file, whole or not at all, or removes it if it would be empty.
func keepFile(path string, data []byte) error {
	if len(data) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	// Not synced: a machine that lost its power has lost the pods as well.
	return atomicfile.Write(path, data, 0o600, atomicfile.Unsynced)
}

// keeper writes what is in force into a file, some time after it changed.
type keeper struct {
	path string // "" keeps nothing
	due  <-chan time.Time
	wait time.Duration
}

func newKeeper(path string) *keeper { return &keeper{path: path, wait: keepAfter} }

// changed says that the file is behind.
func (k *keeper) changed() {
	if k.path != "" && k.due == nil {
		k.due = time.After(k.wait)
	}
}

// write brings the file up to date, if it is behind.
func (k *keeper) write(s *state) error {
	if k.due == nil {
		return nil
	}
	k.due = nil
	begun := time.Now()
	err := s.memoir().keep(k.path)
	k.wait = max(keepAfter, keepShare*time.Since(begun))
	return err
}
