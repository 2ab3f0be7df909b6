package request

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
)

type userKey struct{}

// WithUser says who asks. A request whose context has a user is not authenticated again.
func WithUser(ctx context.Context, u user.Info) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom tells who asks.
func UserFrom(ctx context.Context) (user.Info, bool) {
	u, ok := ctx.Value(userKey{}).(user.Info)
	return u, ok
}

type parting struct{}

// WithParting has a deletion of a pod change the pod's status in the same step: apply returns a changed copy, as GiveEdit says. Whoever asks must be allowed to patch the
// status. It is for callers in this process.
func WithParting(ctx context.Context, apply func(runtime.Object) (runtime.Object, error)) context.Context {
	return context.WithValue(ctx, parting{}, apply)
}

// PartingFrom returns what a deletion does to the status, nil for nothing.
func PartingFrom(ctx context.Context) func(runtime.Object) (runtime.Object, error) {
	apply, _ := ctx.Value(parting{}).(func(runtime.Object) (runtime.Object, error))
	return apply
}

type scopeKey struct{}

// Scope is what the server keeps of one request while it is served. It is safe for concurrent use.
type Scope struct {
	// Info is what the request asks.
	Info Info
	// AuditID names the request in logs and in the Audit-ID header.
	AuditID string
	// InProcess says that the caller is a part of this process.
	InProcess bool

	mu       sync.Mutex
	warnings []string          // guarded by mu
	told     int               // guarded by mu: the characters of the warnings, as they are shown
	brief    bool              // guarded by mu: there are so many that long ones are cut
	notes    map[string]string // guarded by mu
}

// Annotate notes something for the audit event of the request; what was noted first under a key stays.
func (s *Scope) Annotate(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes == nil {
		s.notes = map[string]string{}
	}
	if _, there := s.notes[key]; !there {
		s.notes[key] = value
	}
}

// Annotations returns what was noted so far.
func (s *Scope) Annotations() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.notes)
}

// WithScope attaches s to ctx.
func WithScope(ctx context.Context, s *Scope) context.Context {
	return context.WithValue(ctx, scopeKey{}, s)
}

// ScopeFrom returns the request's scope, or nil.
func ScopeFrom(ctx context.Context) *Scope {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s
}

// Context is the context of one request: who asks, what the server keeps of it, and until when it must be answered. Most requests are
// answered without anybody waiting, so the timer is set only when someone asks for Done.
type Context struct {
	context.Context
	scope    *Scope
	user     user.Info
	deadline time.Time

	mu     sync.Mutex
	timed  context.Context    // guarded by mu; the parent with a timer
	cancel context.CancelFunc // guarded by mu
	over   bool               // guarded by mu
}

// NewContext returns a context below parent with a scope. It ends at the deadline, unless that is zero, and with Cancel, which has to be
// called.
func NewContext(parent context.Context, s *Scope, deadline time.Time) *Context {
	if at, ok := parent.Deadline(); ok && (deadline.IsZero() || at.Before(deadline)) {
		deadline = at
	}
	return &Context{Context: parent, scope: s, deadline: deadline}
}

// SetUser says who asks. It must be called before the context is handed to other goroutines.
func (c *Context) SetUser(u user.Info) { c.user = u }

// Limit has the context end after a time, if not before. It says false, and does nothing, if somebody waits for the end already.
func (c *Context) Limit(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed != nil {
		return false
	}
	if at := time.Now().Add(d); c.deadline.IsZero() || at.Before(c.deadline) {
		c.deadline = at
	}
	return true
}

// Value returns what the context knows of the request, or what its parent knows.
func (c *Context) Value(key any) any {
	switch key.(type) {
	case scopeKey:
		return c.scope
	case userKey:
		if c.user != nil {
			return c.user
		}
	}
	c.mu.Lock()
	timed := c.timed
	c.mu.Unlock()
	if timed != nil { // contexts that are made below this one look for it here
		return timed.Value(key)
	}
	return c.Context.Value(key)
}

// Deadline says when the context ends.
func (c *Context) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, !c.deadline.IsZero()
}

// Done returns a channel that is closed when the context ends.
func (c *Context) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timed == nil {
		if c.deadline.IsZero() {
			c.timed, c.cancel = context.WithCancel(c.Context)
		} else {
			c.timed, c.cancel = context.WithDeadline(c.Context, c.deadline)
		}
		if c.over {
			c.cancel()
		}
	}
	return c.timed.Done()
}

// Err says why the context has ended, nil if it has not.
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.timed != nil:
		return c.timed.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	case c.over:
		return context.Canceled
	}
	return nil
}

// Cancel ends the context.
func (c *Context) Cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}

// InfoFrom returns what the request asks.
func InfoFrom(ctx context.Context) (Info, bool) {
	if s := ScopeFrom(ctx); s != nil {
		return s.Info, true
	}
	return Info{}, false
}

// Limits of what one answer carries, in characters: of all warnings, and of each of them once there is more.
const (
	maxWarnings = 4 * 1024
	maxWarning  = 256
)

// Warn tells the client something with the answer; the same text is told once.
func Warn(ctx context.Context, text string) {
	s := ScopeFrom(ctx)
	if s == nil || text == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.brief && s.told >= maxWarnings || slices.Contains(s.warnings, text) {
		return
	}
	s.warnings = append(s.warnings, text)
	n := utf8.RuneCountInString(text)
	switch {
	case s.brief:
		s.told += min(n, maxWarning)
	case s.told+n <= maxWarnings:
		s.told += n
	default:
		s.brief, s.told = true, 0
		for _, w := range s.warnings {
			s.told += min(utf8.RuneCountInString(w), maxWarning)
		}
	}
}

// Warned says whether anything was told.
func (s *Scope) Warned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.warnings) > 0
}

// Warnings returns what was told so far, in order.
func (s *Scope) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.warnings)
	if s.brief {
		for i, w := range out {
			if r := []rune(w); len(r) > maxWarning {
				out[i] = string(r[:maxWarning])
			}
		}
	}
	return out
}
