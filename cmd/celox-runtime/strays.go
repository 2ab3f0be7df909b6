package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// A start that fails early leaves children of which libcontainer never learns:
// its first process makes the others as its own siblings, and only a first
// process that succeeds names them. They are more than untidy: the init of a
// process namespace cannot end before all in it are reaped, so that a container
// into which an exec came too late would hang for ever.

const (
	// helperName is the process between the first and the init; libcontainer does
	// not mind when it is reaped by others.
	helperName = "runc:[1:CHILD]"
	// strayAge is how long another child has to be dead before nobody waits for it,
	// even if a start hangs.
	strayAge = 10 * time.Second

	strayFirstDelay = 10 * time.Millisecond
	strayLastDelay  = time.Second
)

// starts are those that are under way, by the order in which they began.
type starts struct {
	mu     sync.Mutex
	next   uint64              // guarded by mu
	active map[uint64]struct{} // guarded by mu
}

// begin notes a start; the function it returns notes its end, by which it has to
// have waited for its children or to have made them known.
func (s *starts) begin() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		s.active = map[uint64]struct{}{}
	}
	n := s.next
	s.next++
	s.active[n] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.active, n)
	}
}

// now returns the number of the next start and that of the oldest under way.
func (s *starts) now() (next, oldest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest = s.next
	for n := range s.active {
		oldest = min(oldest, n)
	}
	return s.next, oldest
}

// strays reaps what failed starts have left. It belongs to one goroutine.
type strays struct {
	starts *starts
	// known tells whether a child is one that will be waited for.
	known func(pid int) bool
	// dead are the other children that have ended.
	dead map[int]death
}

// death is when a child was first seen dead, and which start was the next then:
// only those before it may want to wait for the child.
type death struct {
	at   time.Time
	next uint64
}

// sweep reaps what it may by now, and tells whether it has to come again.
func (r *strays) sweep(now time.Time) (again bool) {
	before := r.dead
	r.dead = map[int]death{}
	for _, pid := range children() {
		stat, err := holder.ReadProcStat(pid)
		if err != nil || stat.Parent != os.Getpid() {
			continue
		}
		next, oldest := r.starts.now() // before known: a start makes its child known before it ends
		switch d, seen := before[pid]; {
		case r.known(pid):
		case stat.State != 'Z':
			// It may be dying of what made the start fail, or be of another start.
			again = again || strings.HasPrefix(stat.Name, "runc:[")
		case stat.Name == helperName, seen && (oldest >= d.next || now.Sub(d.at) >= strayAge):
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		default:
			if !seen {
				d = death{now, next}
			}
			r.dead[pid], again = d, true
		}
	}
	return again
}

// children lists our children, of any thread.
func children() []int {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	var pids []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// reap sweeps after failed starts until the holder stops.
func (s *server) reap() {
	r := &strays{starts: &s.starts, known: s.isKnown}
	for {
		select {
		case <-s.failed:
		case <-s.done:
			return
		}
		for delay := strayFirstDelay; r.sweep(time.Now()); delay = min(2*delay, strayLastDelay) {
			select {
			case <-time.After(delay):
			case <-s.done:
				return
			}
		}
	}
}

// startFailed has what a failed start may have left cleaned up.
func (s *server) startFailed() {
	select {
	case s.failed <- struct{}{}:
	default: // there is one to come
	}
}

// isKnown tells whether a pid is that of a task, of its keeper or of an exec.
func (s *server) isKnown(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.execs[pid]; ok {
		return true
	}
	for _, t := range s.tasks {
		t.mu.Lock()
		known := t.st.Phase != holder.PhaseExited && (t.st.Pid == pid || t.st.KeeperPid == pid)
		t.mu.Unlock()
		if known {
			return true
		}
	}
	return false
}
