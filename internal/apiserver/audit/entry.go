package audit

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// maxBody is how much of a body is written, in bytes; the rest of a larger one is not.
const maxBody = 3 << 20

// maxUserAgent bounds what a client calls itself, in bytes.
const maxUserAgent = 1024

// Sink takes events, a line each.
type Sink interface {
	Write(line []byte) error
}

// Auditor makes an Entry for each request that its policy wants to know of. Safe for concurrent use.
type Auditor struct {
	policy *v1.Policy
	sink   Sink
	failed func(error)
	now    func() time.Time
}

// New returns an Auditor; failed is called with what keeps events from being written, and now is the time.
func New(p *v1.Policy, sink Sink, failed func(error), now func() time.Time) *Auditor {
	return &Auditor{policy: p, sink: sink, failed: failed, now: now}
}

// Entry is one request on its way into the log. The methods of a nil Entry do nothing. One goroutine at a time may use it.
type Entry struct {
	a         *Auditor
	event     v1.Event
	omit      []v1.Stage
	bare      bool // without managed fields
	started   bool
	completed bool
	scope     *request.Scope
}

// Begin makes the entry of an authenticated request, and writes its first stage; nil if the policy does not want it. received is when the
// request came.
func (a *Auditor) Begin(r *http.Request, scope *request.Scope, u user.Info, received time.Time) *Entry {
	i := &scope.Info
	v := judge(a.policy, u, i)
	if v.level == v1.LevelNone {
		return nil
	}
	e := &Entry{a: a, omit: v.omit, bare: v.omitManagedFields, scope: scope}
	e.event = v1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: v1.SchemeGroupVersion.String()},
		Level:    v.level, AuditID: types.UID(scope.AuditID), RequestURI: r.URL.RequestURI(), Verb: i.Verb,
		SourceIPs: sources(r), UserAgent: agent(r.UserAgent()), RequestReceivedTimestamp: metav1.NewMicroTime(received),
	}
	if u != nil {
		e.event.User = userOf(u)
	}
	if i.IsResource {
		e.event.ObjectRef = &v1.ObjectReference{
			Resource: i.Resource, Namespace: i.Namespace, Name: i.Name, Subresource: i.Subresource, APIGroup: i.Group, APIVersion: i.Version,
		}
	}
	e.write(v1.StageRequestReceived)
	return e
}

func userOf(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

func agent(s string) string {
	if len(s) > maxUserAgent {
		return s[:maxUserAgent] + "...TRUNCATED"
	}
	return s
}

// sources are the addresses that a request came from, the client's first, as far as proxies told them.
func sources(r *http.Request) []string {
	var out []string
	add := func(s string) {
		if ip := net.ParseIP(strings.TrimSpace(s)); ip != nil && !slices.Contains(out, ip.String()) {
			out = append(out, ip.String())
		}
	}
	for s := range strings.SplitSeq(r.Header.Get("X-Forwarded-For"), ",") {
		add(s)
	}
	add(r.Header.Get("X-Real-Ip"))
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	add(host)
	return out
}

// Impersonated tells whom the user acts as, and by which verb it may (KEP-5284); "" is the one that allows all.
func (e *Entry) Impersonated(u user.Info, constraint string) {
	if e == nil {
		return
	}
	info := userOf(u)
	e.event.ImpersonatedUser = &info
	if constraint != "" {
		e.event.AuthenticationMetadata = &v1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

// Object names the object that the request turned out to be about.
func (e *Entry) Object(o metav1.Object) {
	if e == nil || e.event.ObjectRef == nil {
		return
	}
	ref := e.event.ObjectRef
	if ref.Name == "" {
		ref.Name = o.GetName()
	}
	if ref.Namespace == "" {
		ref.Namespace = o.GetNamespace()
	}
	if ref.UID == "" {
		ref.UID = o.GetUID()
	}
	if ref.ResourceVersion == "" {
		ref.ResourceVersion = o.GetResourceVersion()
	}
}

// WantsRequest says whether the body of the request is to be written, WantsResponse whether that of the answer is.
func (e *Entry) WantsRequest() bool {
	return e != nil && (e.event.Level == v1.LevelRequest || e.event.Level == v1.LevelRequestResponse)
}

// WantsResponse says whether the body of the answer is to be written.
func (e *Entry) WantsResponse() bool { return e != nil && e.event.Level == v1.LevelRequestResponse }

// Request is the body of the request, as JSON.
func (e *Entry) Request(body []byte) {
	if e.WantsRequest() {
		e.event.RequestObject = e.unknown(body)
	}
}

// Response is the body of the answer, as JSON.
func (e *Entry) Response(body []byte) {
	if e.WantsResponse() {
		e.event.ResponseObject = e.unknown(body)
	}
}

// unknown wraps a body; nil is one that is too long or no JSON.
func (e *Entry) unknown(body []byte) *runtime.Unknown {
	if len(body) == 0 || len(body) > maxBody || !json.Valid(body) {
		return nil
	}
	if e.bare {
		body = withoutManagedFields(body)
	}
	return &runtime.Unknown{Raw: body, ContentType: runtime.ContentTypeJSON}
}

// withoutManagedFields drops the managed fields of an object and of the items of a list.
func withoutManagedFields(body []byte) []byte {
	var o map[string]json.RawMessage
	if json.Unmarshal(body, &o) != nil {
		return body
	}
	changed := false
	var meta map[string]json.RawMessage
	if json.Unmarshal(o["metadata"], &meta) == nil && meta["managedFields"] != nil {
		delete(meta, "managedFields")
		if raw, err := json.Marshal(meta); err == nil {
			o["metadata"], changed = raw, true
		}
	}
	var items []json.RawMessage
	if json.Unmarshal(o["items"], &items) == nil && len(items) > 0 {
		for i := range items {
			items[i] = withoutManagedFields(items[i])
		}
		if raw, err := json.Marshal(items); err == nil {
			o["items"], changed = raw, true
		}
	}
	if !changed {
		return body
	}
	out, err := json.Marshal(o)
	if err != nil {
		return body
	}
	return out
}

// Started tells that the answer to a request that may go on for long has begun.
func (e *Entry) Started(code int) {
	if e == nil || e.started || e.completed {
		return
	}
	e.started = true
	e.event.ResponseStatus = &metav1.Status{Code: int32(code)}
	e.write(v1.StageResponseStarted)
}

// Status tells what was answered to a request that failed.
func (e *Entry) Status(s *metav1.Status) {
	if e == nil {
		return
	}
	out := *s
	out.TypeMeta = metav1.TypeMeta{}
	e.event.ResponseStatus = &out
}

// Complete ends the entry.
func (e *Entry) Complete(code int) {
	if e == nil || e.completed {
		return
	}
	e.completed = true
	if e.event.ResponseStatus == nil {
		e.event.ResponseStatus = &metav1.Status{}
	}
	e.event.ResponseStatus.Code = int32(code)
	e.write(v1.StageResponseComplete)
}

// Panicked ends the entry of a request whose handler broke down.
func (e *Entry) Panicked(text string) {
	if e == nil || e.completed {
		return
	}
	e.completed = true
	e.event.ResponseStatus = &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: "APIServer panic'd: " + text, Code: http.StatusInternalServerError,
	}
	e.write(v1.StagePanic)
}

// write puts the event as it is now into the log.
func (e *Entry) write(stage v1.Stage) {
	if slices.Contains(e.omit, stage) {
		return
	}
	e.event.Stage = stage
	if stage == v1.StageRequestReceived {
		e.event.StageTimestamp = e.event.RequestReceivedTimestamp
	} else {
		e.event.StageTimestamp = metav1.NewMicroTime(e.a.now())
		e.event.Annotations = e.scope.Annotations()
	}
	line, err := json.Marshal(&e.event)
	if err == nil {
		err = e.a.sink.Write(append(line, '\n'))
	}
	if err != nil {
		e.a.failed(err)
	}
}
