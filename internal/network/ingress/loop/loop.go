package loop

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxEvents is how much the kernel tells at a time.
	maxEvents = 128
	// maxTurns is how often a task may read or write before the others have their turn.
	maxTurns = 8
	// lateness is how much later than its deadline somebody may be woken.
	lateness = 20 * time.Millisecond
)

// Loop is a thread with connections. Post, Spawn, Tasks and Stop may be called by anybody, everything else only by its tasks and by what was posted.
type Loop struct {
	poll, bell int // epoll, and the eventfd in it
	tasks      atomic.Int64

	mu     sync.Mutex
	posted []func() // guarded by mu
	rung   bool     // guarded by mu: the bell was rung for what is posted
	stop   bool     // guarded by mu: it ends after its last task
	over   bool     // guarded by mu

	// What follows belongs to the thread.
	sockets map[int32]*Socket
	current *task
	turns   int       // of the current task
	again   []*task   // that gave way to others
	now     time.Time // as of the last word of the kernel
	next    time.Time // no deadline is before; zero is that there is none
}

// task is a coroutine.
type task struct {
	resume func() (struct{}, bool) // lets it run until it pauses; false is that it has ended
	yield  func(struct{}) bool
}

// New makes a loop, which Run must run.
func New() (*Loop, error) {
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(poll) // nothing is in it
		return nil, os.NewSyscallError("eventfd", err)
	}
	l := &Loop{poll: poll, bell: bell, sockets: map[int32]*Socket{}}
	if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)}); err != nil {
		return nil, errors.Join(os.NewSyscallError("epoll_ctl", err), unix.Close(bell), unix.Close(poll))
	}
	return l, nil
}

// Post has f called on the loop's thread. False says that the loop is over, and f is not called.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.posted = append(l.posted, f)
	l.ring()
	return true
}

// ring wakes the thread. l.mu must be held.
func (l *Loop) ring() {
	if !l.rung {
		l.rung = true
		_, _ = unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only where it was rung very often already
	}
}

// Spawn has f called as a task. False says that the loop ends, and f is not called.
func (l *Loop) Spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop {
		return false
	}
	l.tasks.Add(1)
	l.posted = append(l.posted, func() {
		t := &task{}
		t.resume, _ = iter.Pull(func(yield func(struct{}) bool) {
			t.yield = yield
			f()
		})
		l.run(t)
	})
	l.ring()
	return true
}

// Tasks is how many tasks there are.
func (l *Loop) Tasks() int64 { return l.tasks.Load() }

// Stop has Run return as soon as there are no tasks.
func (l *Loop) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = true
	l.ring()
}

// Away lets f run in a goroutine, which may wait, while other tasks go on. F must not use what is the loop's.
func (l *Loop) Away(f func()) {
	t := l.current
	go func() { // the task waits for it
		f()
		l.Post(func() { l.run(t) }) // there is a task, so the loop is not over
	}()
	l.pause()
}

// run lets a task go on.
func (l *Loop) run(t *task) {
	l.current, l.turns = t, 0
	_, alive := t.resume()
	l.current = nil
	if !alive {
		l.tasks.Add(-1)
	}
}

// pause ends the turn of the current task. Somebody must have noted who it is.
func (l *Loop) pause() { l.current.yield(struct{}{}) }

// giveWay lets others have their turn if the current task has had its own.
func (l *Loop) giveWay() {
	if l.turns++; l.turns > maxTurns {
		l.again = append(l.again, l.current)
		l.pause()
	}
}

// Run works until Stop was called and the last task has ended. What is still open is closed then.
func (l *Loop) Run() error {
	// A loop that Go moves from thread to thread has to be woken on each of them, and each has to wait for a processor.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, maxEvents)
	for !l.ended() {
		n, err := unix.EpollWait(l.poll, events, l.wait())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for connections: %w", err) // it is a mistake of ours: the descriptor is not one
		}
		l.now = time.Now()
		for i := range max(n, 0) {
			if fd := events[i].Fd; int(fd) == l.bell {
				l.answer()
			} else if s := l.sockets[fd]; s != nil {
				s.note(events[i].Events)
			}
		}
		if len(l.again) > 0 {
			again := l.again
			l.again = nil
			for _, t := range again {
				l.run(t)
			}
		}
		if !l.next.IsZero() && !l.now.Before(l.next) {
			l.expire()
		}
	}
	for _, s := range l.sockets {
		_ = s.Close() // nobody uses it
	}
	return errors.Join(unix.Close(l.bell), unix.Close(l.poll))
}

func (l *Loop) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.stop && len(l.posted) == 0 && l.tasks.Load() == 0
	return l.over
}

// answer does what was posted.
func (l *Loop) answer() {
	var b [8]byte
	l.mu.Lock()
	posted := l.posted
	l.posted, l.rung = nil, false
	_, _ = unix.Read(l.bell, b[:]) // it says only that it was rung
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// wait is for how many milliseconds there is nothing to do unless something happens; -1 is for ever.
func (l *Loop) wait() int {
	switch {
	case len(l.again) > 0:
		return 0
	case l.next.IsZero():
		return -1
	}
	return int((max(time.Until(l.next), 0) + time.Millisecond - 1) / time.Millisecond)
}

// expire wakes those whose time is over, and finds out when to look again. Deadlines are far away and seldom reached: looking at all of them now and then costs less than
// keeping them in order.
func (l *Loop) expire() {
	l.next = time.Time{}
	var due []*task
	for _, s := range l.sockets {
		for _, w := range []*waiter{&s.reader, &s.writer} {
			if w.task != nil && !w.by.IsZero() && !l.soon(w.by) {
				due = append(due, w.task)
				w.task = nil
			}
		}
	}
	if soonest := l.now.Add(lateness); !l.next.IsZero() && l.next.Before(soonest) {
		l.next = soonest
	}
	for _, t := range due {
		l.run(t)
	}
}

// soon has deadlines looked at when t comes; false says that it has come.
func (l *Loop) soon(t time.Time) bool {
	if !l.now.Before(t) {
		return false
	}
	if l.next.IsZero() || t.Before(l.next) {
		l.next = t
	}
	return true
}

// Adopt makes a connection one of this loop's. It is gone for everybody else, also if that fails.
func (l *Loop) Adopt(c *net.TCPConn) (*Socket, error) {
	defer func() { _ = c.Close() }() // the loop's descriptor is another
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	const all = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
	if err := unix.EpollCtl(l.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: all, Fd: int32(fd)}); err != nil {
		return nil, errors.Join(os.NewSyscallError("epoll_ctl", err), unix.Close(fd))
	}
	s := &Socket{loop: l, fd: fd, local: c.LocalAddr(), remote: c.RemoteAddr(), hot: true}
	l.sockets[int32(fd)] = s
	return s, nil
}
