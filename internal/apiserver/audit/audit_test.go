package audit

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"

func TestParsePolicy(t *testing.T) {
	for _, c := range []struct{ name, text, err string }{
		{"good", head + "omitStages: [RequestReceived]\nrules: [{level: Metadata}]", ""},
		{"no rules", head, "at least one"},
		{"another kind", "apiVersion: v1\nkind: Pod\nrules: [{level: None}]", "is no audit policy"},
		{"unknown field", head + "rules: [{level: None, verb: [get]}]", `unknown field "verb"`},
		{"no level", head + "rules: [{verbs: [get]}]", "rules[0].level: Required value"},
		{"level", head + "rules: [{level: All}]", `rules[0].level: Unsupported value: "All"`},
		{"stage", head + "rules: [{level: None, omitStages: [End]}]", `rules[0].omitStages[0]: Unsupported value: "End"`},
		{"both kinds", head + "rules: [{level: None, namespaces: [a], nonResourceURLs: [/a]}]", "rules cannot apply to both regular resources and non-resource URLs"},
		{"url", head + "rules: [{level: None, nonResourceURLs: [a, /a*b]}]", "must begin with a '/' character"},
		{"names", head + "rules: [{level: None, resources: [{group: a, resourceNames: [x]}]}]", "requires at least one resource"},
	} {
		_, err := ParsePolicy([]byte(c.text))
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(head + "rules: [{level: Metadata, users: [a], resources: [{group: '', resources: ['*/status']}]}]"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			return
		}
		judge(p, &user.DefaultInfo{Name: "a"}, &request.Info{IsResource: true, Resource: "pods", Subresource: "status"})
	})
}

func TestJudge(t *testing.T) {
	p, err := ParsePolicy([]byte(head + `
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: [quiet]}
- {level: None, userGroups: [nodes], verbs: [get, watch]}
- {level: Request, resources: [{group: "", resources: [pods/exec, services/*, '*/scale']}]}
- {level: RequestResponse, namespaces: [here], resources: [{group: "apps"}], omitStages: [Panic], omitManagedFields: false}
- {level: None, resources: [{group: "", resources: [configmaps], resourceNames: [one]}]}
- {level: None, nonResourceURLs: ["/healthz*", /version]}
- {level: Metadata}
`))
	if err != nil {
		t.Fatal(err)
	}
	res := func(verb, group, resource, sub, ns, name string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: ns, Name: name}
	}
	for _, c := range []struct {
		user  *user.DefaultInfo
		info  *request.Info
		level v1.Level
	}{
		{&user.DefaultInfo{Name: "quiet"}, res("get", "", "pods", "exec", "n", "p"), v1.LevelNone},
		{&user.DefaultInfo{Groups: []string{"nodes"}}, res("get", "", "pods", "", "n", "p"), v1.LevelNone},
		{&user.DefaultInfo{Groups: []string{"nodes"}}, res("update", "", "pods", "", "n", "p"), v1.LevelMetadata},
		{&user.DefaultInfo{}, res("create", "", "pods", "exec", "n", "p"), v1.LevelRequest},
		{&user.DefaultInfo{}, res("create", "", "pods", "log", "n", "p"), v1.LevelMetadata},
		{&user.DefaultInfo{}, res("get", "", "services", "proxy", "n", "p"), v1.LevelRequest},
		{&user.DefaultInfo{}, res("get", "", "services", "", "n", "p"), v1.LevelMetadata},
		{&user.DefaultInfo{}, res("patch", "", "things", "scale", "n", "p"), v1.LevelRequest},
		{&user.DefaultInfo{}, res("patch", "apps", "deployments", "", "here", "p"), v1.LevelRequestResponse},
		{&user.DefaultInfo{}, res("patch", "apps", "deployments", "", "there", "p"), v1.LevelMetadata},
		{&user.DefaultInfo{}, res("get", "", "configmaps", "", "n", "one"), v1.LevelNone},
		{&user.DefaultInfo{}, res("get", "", "configmaps", "", "n", "two"), v1.LevelMetadata},
		{&user.DefaultInfo{}, &request.Info{Verb: "get", Path: "/healthz/etcd"}, v1.LevelNone},
		{&user.DefaultInfo{}, &request.Info{Verb: "get", Path: "/version"}, v1.LevelNone},
		{&user.DefaultInfo{}, &request.Info{Verb: "get", Path: "/version/x"}, v1.LevelMetadata},
	} {
		v := judge(p, c.user, c.info)
		if v.level != c.level {
			t.Errorf("%s %s/%s %s: %s, want %s", c.info.Verb, c.info.Resource, c.info.Subresource, c.info.Path, v.level, c.level)
		}
		if c.level == v1.LevelRequestResponse && (len(v.omit) != 2 || v.omitManagedFields) {
			t.Errorf("the rule's own omissions: %+v", v)
		}
	}
}

// lines keeps events.
type lines []v1.Event

func (l *lines) Write(line []byte) error {
	var e v1.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	*l = append(*l, e)
	return nil
}

func TestEntry(t *testing.T) {
	p, err := ParsePolicy([]byte(head + "omitManagedFields: true\nrules: [{level: RequestResponse}]"))
	if err != nil {
		t.Fatal(err)
	}
	var out lines
	moment := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := New(p, &out, func(err error) { t.Error(err) }, func() time.Time { return moment.Add(time.Second) })
	r := httptest.NewRequest("POST", "/api/v1/namespaces/n/configmaps?a=b", nil)
	r.Header.Set("X-Forwarded-For", "192.0.2.7, 192.0.2.8")
	r.Header.Set("User-Agent", strings.Repeat("x", 2000))
	scope := &request.Scope{Info: request.Parse(r), AuditID: "id"}
	e := a.Begin(r, scope, &user.DefaultInfo{Name: "u", Groups: []string{"g"}}, moment)
	e.Object(&metav1.ObjectMeta{Name: "c", UID: "7"})
	scope.Annotate("a.b/c", "d")
	e.Request([]byte(`{"metadata":{"name":"c","managedFields":[{}]}}`))
	e.Response([]byte(`{"items":[{"metadata":{"managedFields":[{}]}}]}`))
	e.Complete(201)
	e.Complete(500)
	if len(out) != 2 || out[0].Stage != v1.StageRequestReceived || out[1].Stage != v1.StageResponseComplete {
		t.Fatalf("%d events: %+v", len(out), out)
	}
	got := out[1]
	if got.AuditID != "id" || got.RequestURI != "/api/v1/namespaces/n/configmaps?a=b" || got.Verb != "create" || got.User.Username != "u" ||
		got.ObjectRef.Name != "c" || got.ObjectRef.UID != "7" || got.ResponseStatus.Code != 201 || got.Annotations["a.b/c"] != "d" ||
		strings.Join(got.SourceIPs, " ") != "192.0.2.7 192.0.2.8 192.0.2.1" || len(got.UserAgent) != 1024+len("...TRUNCATED") {
		t.Errorf("event: %+v", got)
	}
	if s := string(got.RequestObject.Raw); s != `{"metadata":{"name":"c"}}` {
		t.Errorf("request: %s", s)
	}
	if s := string(got.ResponseObject.Raw); s != `{"items":[{"metadata":{}}]}` {
		t.Errorf("response: %s", s)
	}
	if d := got.StageTimestamp.Sub(got.RequestReceivedTimestamp.Time); d != time.Second {
		t.Errorf("stage after %s", d)
	}
	var none *Entry
	none.Complete(200)
	none.Object(&metav1.ObjectMeta{})
}

func TestLog(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l, err := OpenLog(filepath.Join(dir, "sub", "audit.log"), LogOptions{MaxBytes: 100, MaxBackups: 3, MaxAge: 24 * time.Hour}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 59) + "\n")
	write := func(n int) {
		t.Helper()
		for range n {
			if err := l.Write(line); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Minute)
		}
	}
	files := func() []string {
		all, err := os.ReadDir(filepath.Join(dir, "sub"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range all {
			names = append(names, f.Name())
		}
		return names
	}
	write(2)
	if got := strings.Join(files(), " "); got != "audit-2026-01-02T03-05-05.000.log audit.log" {
		t.Errorf("after two lines: %s", got)
	}
	write(8)
	if got := files(); len(got) != 4 {
		t.Errorf("after ten lines: %v", got)
	}
	now = now.Add(48 * time.Hour)
	write(1)
	if got := files(); len(got) != 2 {
		t.Errorf("two days later: %v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "sub", "audit.log")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
}
