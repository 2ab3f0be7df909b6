package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

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
}

// chain is the way of every request.
func (s *Server) chain() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := &request.Scope{Info: request.Parse(r)}
		rw := &responseWriter{ResponseWriter: w, scope: scope}
		x := &exchange{s: s, w: rw, r: r, scope: scope, info: &scope.Info}
		started := s.clock.Now()
		defer func() {
			if p := recover(); p != nil {
				s.recovered(x, p)
			}
			if x.info.IsResource && x.res != nil || !x.info.IsResource {
				s.metrics.observe(x, s.clock.Since(started))
			}
		}()
		x.serve()
	})
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
	r := x.r
	ctx := request.WithScope(r.Context(), x.scope)
	if x.scope.AuditID = r.Header.Get("Audit-ID"); x.scope.AuditID == "" || len(x.scope.AuditID) > 64 {
		x.scope.AuditID = newUID()
	}
	h := x.w.Header()
	h["Audit-Id"] = []string{x.scope.AuditID}
	h["Cache-Control"] = []string{"no-cache, private"}
	u, known := request.UserFrom(ctx)
	x.scope.InProcess = known

	long := x.info.LongRunning()
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
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	x.ctx = ctx

	if !known {
		var ok bool
		var err error
		if u, ok, err = x.s.cfg.Authenticator.AuthenticateRequest(r.WithContext(ctx)); err != nil || !ok {
			if err != nil {
				x.s.log.Debug("authentication failed", "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
			}
			x.fail(apierrors.NewUnauthorized("Unauthorized"))
			return
		}
	}
	x.user = u
	if r.Header.Get(authenticationv1.ImpersonateUserHeader) != "" || hasImpersonation(r.Header) {
		var err error
		if u, err = x.impersonate(); err != nil {
			x.fail(err)
			return
		}
		x.user = u
	}
	if x.user != nil {
		ctx = request.WithUser(ctx, x.user)
	}
	x.ctx = ctx
	x.r = r.WithContext(ctx)

	slot, gauge := x.s.inflight.readOnly, x.s.metrics.readOnly
	if !x.info.ReadOnly() {
		slot, gauge = x.s.inflight.mutating, x.s.metrics.mutating
	}
	if !long {
		gauge.Inc()
		defer gauge.Dec()
	}
	if !long && !known && !exempt(x.user) {
		select {
		case slot <- struct{}{}:
			defer func() { <-slot }()
		default:
			h.Set("Retry-After", "1")
			x.fail(apierrors.NewTooManyRequests("Too many requests, please try again later.", 1))
			return
		}
	}
	if err := x.authorize(); err != nil {
		x.fail(err)
		return
	}
	x.s.dispatch(x)
}

// exempt says who may not be kept out by too many others: administrators, who will want to look why.
func exempt(u user.Info) bool {
	return u != nil && slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
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
	switch {
	case d == request.Allow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(err)
	}
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
func (x *exchange) impersonate() (user.Info, error) {
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
		return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", as))
	}
	ask := func(a request.Attributes) error {
		a.User, a.Verb, a.ResourceRequest = x.user, "impersonate", true
		d, reason, err := x.s.cfg.Authorizer.Authorize(x.ctx, a)
		switch {
		case d == request.Allow:
			return nil
		case err != nil:
			return apierrors.NewInternalError(err)
		}
		return x.forbidden(a, reason)
	}
	const authn = "authentication.k8s.io"
	if ns, name, err := serviceaccount.SplitUsername(as.Name); err == nil {
		if err := ask(request.Attributes{Version: "v1", Resource: "serviceaccounts", Namespace: ns, Name: name}); err != nil {
			return nil, err
		}
		if len(as.Groups) == 0 {
			as.Groups = serviceaccount.MakeGroupNames(ns)
		}
	} else if err := ask(request.Attributes{Version: "v1", Resource: "users", Name: as.Name}); err != nil {
		return nil, err
	}
	for _, g := range h[authenticationv1.ImpersonateGroupHeader] {
		if err := ask(request.Attributes{Version: "v1", Resource: "groups", Name: g}); err != nil {
			return nil, err
		}
	}
	if as.UID != "" {
		if err := ask(request.Attributes{Group: authn, Version: "v1", Resource: "uids", Name: as.UID}); err != nil {
			return nil, err
		}
	}
	for k, vs := range as.Extra {
		for _, v := range vs {
			if err := ask(request.Attributes{Group: authn, Version: "v1", Resource: "userextras", Subresource: k, Name: v}); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case as.Name == user.Anonymous:
		if !slices.Contains(as.Groups, user.AllUnauthenticated) && !slices.Contains(as.Groups, user.AllAuthenticated) {
			as.Groups = append(as.Groups, user.AllUnauthenticated)
		}
	case !slices.Contains(as.Groups, user.AllAuthenticated) && !slices.Contains(as.Groups, user.AllUnauthenticated):
		as.Groups = append(as.Groups, user.AllAuthenticated)
	}
	for k := range h {
		if strings.HasPrefix(k, "Impersonate-") {
			h.Del(k)
		}
	}
	return as, nil
}
