package apiserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/celox/celox/internal/apiserver/audit"
)

// auditLines keeps audit events.
type auditLines struct {
	mu  sync.Mutex
	all []auditv1.Event // guarded by mu
}

func (l *auditLines) Write(line []byte) error {
	var e auditv1.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	return nil
}

func (l *auditLines) take() []auditv1.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.all
	l.all = nil
	return out
}

func TestAudit(t *testing.T) {
	p, err := audit.ParsePolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n" +
		"- {level: None, nonResourceURLs: [/version]}\n- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}]}\n- {level: Metadata}"))
	if err != nil {
		t.Fatal(err)
	}
	var lines auditLines
	s := newServer(t, func(c *Config) {
		c.Audit = audit.New(p, &lines, func(err error) { t.Error(err) }, time.Now)
	})
	h := s.Handler()
	want(t, h, 200, "GET", "/version", "")
	if got := lines.take(); len(got) != 0 {
		t.Errorf("what is not wanted is written: %+v", got)
	}
	only := func() auditv1.Event {
		t.Helper()
		got := lines.take()
		if len(got) != 1 {
			t.Fatalf("%d events: %+v", len(got), got)
		}
		return got[0]
	}
	w := call(t, h, "POST", configMaps, `{"metadata":{"generateName":"a-"},"data":{"k":"v"}}`, "Audit-ID", "mine")
	e := only()
	if w.Header().Get("Audit-ID") != "mine" || e.AuditID != "mine" || e.Stage != auditv1.StageResponseComplete || e.ResponseStatus.Code != 201 ||
		e.Annotations[decisionNote] != "allow" || !strings.Contains(string(e.RequestObject.Raw), `"generateName":"a-"`) || !strings.Contains(string(e.ResponseObject.Raw), `"name":"a-`) {
		t.Errorf("create: %+v", e)
	}
	call(t, h, "GET", configMaps, "", "Accept", "application/vnd.kubernetes.protobuf")
	if e := only(); !strings.Contains(string(e.ResponseObject.Raw), `"k":"v"`) || e.Verb != "list" {
		t.Errorf("a list in protobuf: %+v", e)
	}
	call(t, h, "GET", "/api/v1/namespaces/n/pods/p", "")
	if e := only(); e.ResponseStatus.Code != 404 || e.ResponseStatus.Message != `pods "p" not found` || e.ObjectRef.Name != "p" || e.ResponseObject != nil {
		t.Errorf("not found: %+v", e)
	}
	call(t, h, "GET", configMaps, "", "X-User", "dave")
	if e := only(); e.ResponseStatus.Code != 403 || e.Annotations[decisionNote] != "forbid" || e.User.Username != "dave" {
		t.Errorf("forbidden: %+v", e)
	}
	call(t, h, "GET", "/api/v1/pods", "", "X-User", "nobody")
	if e := only(); e.ResponseStatus.Code != 401 || e.User.Username != "" {
		t.Errorf("unauthenticated: %+v", e)
	}
	call(t, h, "GET", "/api/v1/pods", "", "Impersonate-User", "bob")
	if e := only(); e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != "bob" || e.User.Username != "admin" {
		t.Errorf("impersonated: %+v", e)
	}
	call(t, h, "GET", "/api/v1/pods?watch=1&timeoutSeconds=1", "")
	got := lines.take()
	if stages := fmt.Sprint(got[0].Stage, " ", got[len(got)-1].Stage); len(got) != 2 || stages != "ResponseStarted ResponseComplete" {
		t.Errorf("a watch: %d events, %s", len(got), stages)
	}
}
