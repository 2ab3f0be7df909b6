package request

import (
	"context"
	"slices"
	"sync"

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
	warnings []string // guarded by mu
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

// InfoFrom returns what the request asks.
func InfoFrom(ctx context.Context) (Info, bool) {
	if s := ScopeFrom(ctx); s != nil {
		return s.Info, true
	}
	return Info{}, false
}

// maxWarnings bounds how many warnings one answer carries.
const maxWarnings = 100

// Warn tells the client something with the answer; the same text is told once.
func Warn(ctx context.Context, text string) {
	s := ScopeFrom(ctx)
	if s == nil || text == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.warnings) < maxWarnings && !slices.Contains(s.warnings, text) {
		s.warnings = append(s.warnings, text)
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
	return slices.Clone(s.warnings)
}
