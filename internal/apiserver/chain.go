package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/audit"
	"github.com/celox/celox/internal/apiserver/flow"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// exchange is one request on its way: what every step of the chain and every verb wants to know.
type exchange struct {
	s     *Server
	w     *responseWriter
	r     *http.Request
	ctx   context.Context
	scope *request.Scope
	info  *request.Info
	user  user.Info
	query url.Values
	res   *resource
	// live is the stored item that a running change starts from; its encodings are cached.
	live *store.Item
	// ticket is the request's place among all that are served.
	ticket flow.Ticket
	// claim is what the request has taken for a service that it writes.
	claim *claim
	// unasked says that admission has no say: the objects of a definition go with it, as in upstream.
	unasked bool
	// applied says that the object comes from server-side apply.
	applied bool
	// parting is what a deletion does to the status of what it deletes; nil is nothing.
	parting func(runtime.Object) (runtime.Object, error)
	// waited is how long others took: webhooks.
	waited time.Duration
	// event is the request's entry in the audit log, nil if it has none; sent is what was read of its body for it.
	event *audit.Entry
	sent  *tap
	// started is when it came.
	started time.Time
	// own is ctx, for who ends it.
	own *request.Context
	// rest is what a watch does after its handler has returned (see onward).
	rest func()
}

// chain is the way of every request.
func (s *Server) chain() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := &request.Scope{Info: request.Parse(r)}
		rw := &responseWriter{ResponseWriter: w, scope: scope}
		x := &exchange{s: s, w: rw, r: r, scope: scope, info: &scope.Info, started: s.clock.Now()}
		defer func() {
			if p := recover(); p != nil || x.rest == nil {
				x.over(p)
			}
		}()
		x.serve()
	})
}

// over is the end of a request; p is what its handler panicked with.
func (x *exchange) over(p any) {
	x.endAudit(p)
	x.release()
	if p != nil {
		x.s.recovered(x, p)
	}
	if x.info.IsResource && x.res != nil || !x.info.IsResource {
		x.s.metrics.observe(x, x.s.clock.Since(x.started))
	}
}

// continuer is an http.ResponseWriter that can go on with an answer after the handler has returned, in a goroutine of its own (package gather has one).
type continuer interface {
	// Continue has f called when the handler has returned. The answer ends when f returns.
	Continue(f func())
}

// onward has f go on with the request once the handler has returned, if there is a way: most of what an idle watcher costs is the stack of the goroutine
// that waits, and beginning to watch needs a deeper one than waiting. Without a way f is done with when onward returns.
func (x *exchange) onward(f func()) {
	w, ok := x.w.ResponseWriter.(continuer)
	if !ok {
		f()
		return
	}
	x.rest = f
	w.Continue(x.goOn)
}

// goOn is the request after its handler.
func (x *exchange) goOn() {
	defer func() { x.over(recover()) }()
	defer x.end()
	x.rest()
}

// leave is the end of the handler.
func (x *exchange) leave() {
	if x.rest == nil {
		x.end()
	}
}

// end gives back what the request held while it was served.
func (x *exchange) end() {
	x.ticket.Leave()
	x.own.Cancel()
}

// recovered answers a request whose handler panicked; a client that has seen a part of the answer is cut off.
func (s *Server) recovered(x *exchange, p any) {
	if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
		panic(p)
	}
	s.log.Error("panic while serving a request", "method", x.r.Method, "path", x.r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if x.w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	x.fail(apierrors.NewInternalError(errors.New("this request caused apiserver to panic. Look in the logs for details")))
}

func (x *exchange) serve() {
	r, received := x.r, x.started
	if x.scope.AuditID = r.Header.Get("Audit-ID"); x.scope.AuditID == "" || len(x.scope.AuditID) > 64 {
		x.scope.AuditID = newUID()
	}
	h := x.w.Header()
	h["Audit-Id"] = []string{x.scope.AuditID}
	h["Cache-Control"] = []string{"no-cache, private"}
	u, known := request.UserFrom(r.Context())
	x.scope.InProcess = known

	long := x.info.LongRunning()
	var deadline time.Time
	if !long {
		d := x.s.cfg.Limits.Timeout
		if raw := r.URL.RawQuery; strings.Contains(raw, "timeout=") {
			if t := x.params().Get("timeout"); t != "" {
				asked, err := time.ParseDuration(t)
				if err != nil {
					x.fail(apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err)))
					return
				}
				if asked > 0 && asked < d {
					d = asked
				}
			}
		}
		deadline = time.Now().Add(d)
	}
	ctx := request.NewContext(r.Context(), x.scope, deadline)
	x.ctx, x.own = ctx, ctx
	defer x.leave()
	r = r.WithContext(ctx)
	x.r = r

	if !known {
		var ok bool
		var err error
		if u, ok, err = x.s.cfg.Authenticator.AuthenticateRequest(r); err != nil || !ok {
			if err != nil {
				x.s.log.Debug("authentication failed", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
			}
			x.beginAudit(nil, received)
			x.fail(apierrors.NewUnauthorized("Unauthorized"))
			return
		}
	}
	x.user = u
	x.beginAudit(u, received)
	if r.Header.Get(authenticationv1.ImpersonateUserHeader) != "" || hasImpersonation(r.Header) {
		as, constraint, err := x.impersonate()
		if err != nil {
			x.fail(err)
			return
		}
		u = as
		x.user = u
		x.event.Impersonated(u, constraint)
	}
	ctx.SetUser(x.user)

	if !long {
		gauge := x.s.metrics.readOnly
		if !x.info.ReadOnly() {
			gauge = x.s.metrics.mutating
		}
		gauge.Inc()
		defer gauge.Dec()
	}
	if !long && !known && r.ContentLength != 0 {
		// A body that comes slowly must not keep its seats for longer than the request may take.
		_ = http.NewResponseController(x.w.ResponseWriter).SetReadDeadline(deadline) // a writer that cannot has no slow bodies
	}
	if !long || x.info.Verb == "watch" {
		if err := x.enter(); err != nil {
			x.refuse(err)
			return
		}
	}
	if err := x.authorize(); err != nil {
		x.fail(err)
		return
	}
	x.s.dispatch(x)
}

// enter waits for the request's turn. Of a watch only the beginning counts: it gives its seats back when the objects that there are have
// been sent.
func (x *exchange) enter() error {
	i := x.info
	ask := flow.Request{User: x.user, Info: i, Own: x.scope.InProcess}
	if i.IsResource {
		if res := x.s.resources[i.GroupVersionResource()]; res != nil && res.col != nil {
			ask.Work = x.work(res.col)
		}
	}
	if err := x.s.flow.Enter(x.ctx, &x.ticket, ask); err != nil {
		return err
	}
	x.tellFlow()
	return nil
}

// tellFlow names the objects of priority and fairness that the request was matched to.
func (x *exchange) tellFlow() {
	h := x.w.Header()
	h["X-Kubernetes-Pf-Flowschema-Uid"], h["X-Kubernetes-Pf-Prioritylevel-Uid"] = x.ticket.Headers()
}

// work is what a request to a collection is expected to cost.
func (x *exchange) work(col collection) flow.Work {
	i := x.info
	switch i.Verb {
	case "list", "watch":
		if i.Name != "" {
			return flow.Work{Objects: 1}
		}
		n := col.Len()
		if raw := x.r.URL.RawQuery; raw != "" {
			q := x.params()
			switch rv := q.Get("resourceVersion"); {
			case i.Verb == "watch" && !request.Truth(q["sendInitialEvents"]) && rv != "" && rv != "0":
				return flow.Work{}
			case i.Verb == "list" && q.Get("labelSelector") == "" && q.Get("fieldSelector") == "":
				if limit, err := strconv.Atoi(q.Get("limit")); err == nil && limit > 0 {
					n = min(n, limit)
				}
			}
		}
		return flow.Work{Objects: n}
	case "create", "update", "patch", "delete":
		if i.Group == "coordination.k8s.io" && i.Resource == "leases" {
			return flow.Work{} // many watchers of each, but of one lease alone
		}
		return flow.Work{Watchers: col.Watchers()}
	}
	return flow.Work{}
}

// refuse answers a request for which there is no place.
func (x *exchange) refuse(err error) {
	var r *flow.Refused
	if !errors.As(err, &r) {
		x.fail(err)
		return
	}
	x.s.log.Debug("request refused", "path", x.r.URL.Path, "flowSchema", r.Schema, "priorityLevel", r.Level, "reason", r.Reason)
	x.tellFlow()
	x.w.Header().Set("Retry-After", strconv.Itoa(r.RetryAfter))
	http.Error(x.w, "Too many requests, please try again later.", http.StatusTooManyRequests)
}

// newUID makes a random UUID (RFC 9562, version 4) without a system call: names for logs and objects, not secrets.
func newUID() string {
	var id uuid.UUID
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		id[i], id[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// params are the query's parameters, read once.
func (x *exchange) params() url.Values {
	if x.query == nil {
		x.query = x.r.URL.Query()
	}
	return x.query
}

func (x *exchange) authorize() error {
	d, reason, err := x.s.cfg.Authorizer.Authorize(x.ctx, request.AttributesOf(x.user, x.info))
	if x.event != nil {
		decision := "forbid"
		if d == request.Allow {
			decision = "allow"
		}
		x.scope.Annotate(decisionNote, decision)
		x.scope.Annotate(reasonNote, reason)
	}
	switch {
	case d == request.Allow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	}
	x.w.Header().Set("X-Content-Type-Options", "nosniff") // the refusal has words of the request
	return x.forbidden(request.AttributesOf(x.user, x.info), reason)
}

// forbidden is the refusal of what a asks.
func (x *exchange) forbidden(a request.Attributes, reason string) error {
	text := refusal(a)
	if reason != "" {
		text += ": " + reason
	}
	if !a.ResourceRequest {
		err := apierrors.NewForbidden(schema.GroupResource{}, "", errors.New(text))
		err.ErrStatus.Message = "forbidden: " + text
		err.ErrStatus.Details = &metav1.StatusDetails{}
		return err
	}
	err := apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(text))
	return err
}

func refusal(a request.Attributes) string {
	name := ""
	if a.User != nil {
		name = a.User.GetName()
	}
	who := fmt.Sprintf("User %q cannot %s", name, a.Verb)
	if !a.ResourceRequest {
		return fmt.Sprintf("%s path %q", who, a.Path)
	}
	what := a.Resource
	if a.Subresource != "" {
		what += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return fmt.Sprintf("%s resource %q in API group %q %s", who, what, a.Group, where)
}

func hasImpersonation(h http.Header) bool {
	if _, ok := h[authenticationv1.ImpersonateGroupHeader]; ok {
		return true
	}
	if _, ok := h[http.CanonicalHeaderKey(authenticationv1.ImpersonateUIDHeader)]; ok {
		return true
	}
	for k := range h {
		if strings.HasPrefix(k, authenticationv1.ImpersonateUserExtraHeaderPrefix) {
			return true
		}
	}
	return false
}

// impersonate reads the Impersonate-* headers and asks for each part whether the caller may be it.
func (x *exchange) impersonate() (u user.Info, constraint string, _ error) {
	h := x.r.Header
	as := &user.DefaultInfo{
		Name: h.Get(authenticationv1.ImpersonateUserHeader),
		UID:  h.Get(authenticationv1.ImpersonateUIDHeader),
	}
	as.Groups = append(as.Groups, h[authenticationv1.ImpersonateGroupHeader]...)
	for k, v := range h {
		if rest, ok := strings.CutPrefix(k, authenticationv1.ImpersonateUserExtraHeaderPrefix); ok {
			key := strings.ToLower(rest)
			if un, err := url.PathUnescape(key); err == nil {
				key = un
			}
			if as.Extra == nil {
				as.Extra = map[string][]string{}
			}
			as.Extra[key] = append(as.Extra[key], v...)
		}
	}
	if as.Name == "" {
		return nil, "", apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", as))
	}
	as, constraint, err := x.become(as)
	if err != nil {
		return nil, "", err
	}
	for k := range h {
		if strings.HasPrefix(k, "Impersonate-") {
			h.Del(k)
		}
	}
	return as, constraint, nil
}
