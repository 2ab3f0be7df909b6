package shortcut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxPods is how many addresses of pods there may be, maxFlows how many directions of connections; the one that was used least recently makes room.
	maxPods  = 4096
	maxFlows = 16384
	addrSize = 16
)

// Pod is one as the network has connected it.
type Pod struct {
	// ID is its sandbox's.
	ID string
	// Link is the index of the machine's end of its pair of interfaces.
	Link int
	// MAC is the hardware address of its own end, Gateway that of the machine's.
	MAC, Gateway net.HardwareAddr
	Addrs        []netip.Addr
}

// Shortcut is that of one network namespace. Its methods may be called concurrently.
type Shortcut struct {
	mu          sync.Mutex // guards what follows
	pods, flows *os.File   // maps; all files are nil when it is closed
	// prog is what decides. It is called by entry, which interfaces have, through table: the kernel empties that when we close it, and so when this process ends.
	prog, table, entry *os.File
	ends               map[string]*end // by sandbox
}

// end is what is known of a pod.
type end struct {
	Pod
	open bool // its addresses are in the kernel's map
}

// New prepares the kernel, or says why it cannot.
func New() (*Shortcut, error) {
	s := &Shortcut{ends: map[string]*end{}}
	var err error
	if s.pods, err = newMap(unix.BPF_MAP_TYPE_HASH, addrSize, podSize, maxPods, "celox_pods"); err != nil {
		return nil, err
	}
	if s.flows, err = newMap(unix.BPF_MAP_TYPE_LRU_HASH, keySize, valueSize, maxFlows, "celox_flows"); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// load makes the programs.
func (s *Shortcut) load() error {
	code, err := program(int(s.pods.Fd()), int(s.flows.Fd()))
	if err != nil {
		return err
	}
	if s.prog, err = newProgram(code, "celox_shortcut"); err != nil {
		return err
	}
	if s.table, err = newMap(unix.BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 1, "celox_shortcut"); err != nil {
		return err
	}
	if err := update(s.table, make([]byte, 4), binary.NativeEndian.AppendUint32(nil, uint32(s.prog.Fd()))); err != nil {
		return fmt.Errorf("shortcut: %w", err)
	}
	if code, err = entry(int(s.table.Fd())); err != nil {
		return err
	}
	s.entry, err = newProgram(code, "celox_entry")
	return err
}

// Program is the descriptor of what has to be asked about all that comes by the interfaces of pods (a classifier of direct action).
func (s *Shortcut) Program() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.entry.Fd())
}

// Close ends it. Connections go on through the machine.
func (s *Shortcut) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	clear(s.ends)
	for _, f := range []**os.File{&s.table, &s.entry, &s.prog, &s.pods, &s.flows} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// Plug takes note of a pod whose interface asks the Program. It is not free until the next Widen.
func (s *Shortcut) Plug(p Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.ends[p.ID]; e != nil && e.Link == p.Link {
		return nil
	}
	if err := s.unplug(p.ID); err != nil {
		return err
	}
	s.ends[p.ID] = &end{Pod: p}
	return nil
}

// Unplug forgets a pod. Its addresses may be another's when it returns.
func (s *Shortcut) Unplug(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unplug(id)
}

func (s *Shortcut) unplug(id string) error {
	e := s.ends[id]
	if e == nil {
		return nil
	}
	if err := s.shut(e); err != nil {
		return err
	}
	delete(s.ends, id)
	return nil
}

// open lets the pod's packets take the shortcut, and others' to it.
func (s *Shortcut) open(e *end) error {
	var v [podSize]byte
	binary.NativeEndian.PutUint32(v[podLink:], uint32(e.Link))
	copy(v[podMACs:], e.MAC)
	copy(v[podMACs+6:], e.Gateway)
	e.open = true // or in part
	for _, a := range e.Addrs {
		k := a.As16()
		if err := update(s.pods, k[:], v[:]); err != nil {
			return fmt.Errorf("shortcut: %v: %w", a, err)
		}
	}
	return nil
}

// shut takes the pod off. No packet takes the shortcut that begins its way afterwards.
func (s *Shortcut) shut(e *end) error {
	if !e.open {
		return nil
	}
	for _, a := range e.Addrs {
		k := a.As16()
		if err := remove(s.pods, k[:]); err != nil {
			return fmt.Errorf("shortcut: %v: %w", a, err)
		}
	}
	e.open = false
	return nil
}

// Narrow takes all pods off that have a restricted address. Rules for them may come into force when it has returned without an error.
func (s *Shortcut) Narrow(restricted func(netip.Addr) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.ends {
		if slices.ContainsFunc(e.Addrs, restricted) {
			if err := s.shut(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// Widen says that the others are free: no rule looks at their packets.
func (s *Shortcut) Widen(restricted func(netip.Addr) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.ends {
		if !e.open && !slices.ContainsFunc(e.Addrs, restricted) {
			if err := s.open(e); err != nil {
				return err
			}
		}
	}
	return nil
}
