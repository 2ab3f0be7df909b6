package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// agents takes callers for service accounts on the node of the header X-Node.
type agents struct{ anybody }

func (a agents) AuthenticateRequest(r *http.Request) (user.Info, bool, error) {
	u, ok, err := a.anybody.AuthenticateRequest(r)
	if node := r.Header.Get("X-Node"); ok && node != "" {
		return &user.DefaultInfo{Name: u.GetName(), Groups: u.GetGroups(), Extra: map[string][]string{serviceaccount.NodeNameKey: {node}}}, ok, err
	}
	return u, ok, err
}

// permits allows what is listed as "verb group/resource/sub name" of whoever asks.
type permits struct{ list []string }

func (p permits) Authorize(_ context.Context, a request.Attributes) (request.Decision, string, error) {
	resource := strings.Trim(a.Group+"/"+a.Resource+"/"+a.Subresource, "/")
	if slices.Contains(p.list, a.Verb+" "+resource+" "+a.Name) {
		return request.Allow, "", nil
	}
	return request.NoOpinion, "", nil
}

func TestConstrainedImpersonation(t *testing.T) {
	const account = "system:serviceaccount:ns:agent"
	for _, c := range []struct {
		name    string
		permits []string
		headers []string
		code    int
		text    string
	}{
		{"a user for one verb", []string{"impersonate:user-info authentication.k8s.io/users erin", "impersonate-on:user-info:list configmaps ", "list configmaps "},
			[]string{"Impersonate-User", "erin"}, 200, ""},
		{"a user for another verb", []string{"impersonate:user-info authentication.k8s.io/users erin", "impersonate-on:user-info:watch configmaps "},
			[]string{"Impersonate-User", "erin"}, 403, `cannot impersonate-on:user-info:list resource "configmaps"`},
		{"another user", []string{"impersonate:user-info authentication.k8s.io/users erin", "impersonate-on:user-info:list configmaps "},
			[]string{"Impersonate-User", "carl"}, 403, `users.authentication.k8s.io "carl" is forbidden: User "dave" cannot impersonate:user-info resource "users"`},
		{"a user with a group", []string{"impersonate:user-info authentication.k8s.io/users erin", "impersonate:user-info authentication.k8s.io/groups g", "impersonate-on:user-info:list configmaps ", "list configmaps "},
			[]string{"Impersonate-User", "erin", "Impersonate-Group", "g"}, 200, ""},
		{"masters", []string{"impersonate:user-info authentication.k8s.io/users erin", "impersonate:user-info authentication.k8s.io/groups system:masters", "impersonate-on:user-info:list configmaps "},
			[]string{"Impersonate-User", "erin", "Impersonate-Group", "system:masters"}, 403, "impersonating the system:masters group is not allowed"},
		{"the old way", []string{"impersonate users erin", "list configmaps "}, []string{"Impersonate-User", "erin"}, 200, ""},
		{"an account", []string{"impersonate:serviceaccount authentication.k8s.io/serviceaccounts bot", "impersonate-on:serviceaccount:list configmaps ", "list configmaps "},
			[]string{"Impersonate-User", "system:serviceaccount:ns:bot"}, 200, ""},
		{"an account as a user", []string{"impersonate:user-info authentication.k8s.io/users system:serviceaccount:ns:bot", "impersonate-on:user-info:list configmaps "},
			[]string{"Impersonate-User", "system:serviceaccount:ns:bot"}, 403, "cannot impersonate-on:serviceaccount:list"},
		{"a node", []string{"impersonate:arbitrary-node authentication.k8s.io/nodes n1", "impersonate-on:arbitrary-node:list configmaps ", "list configmaps "},
			[]string{"Impersonate-User", "system:node:n1"}, 200, ""},
		{"its own node", []string{"impersonate:associated-node authentication.k8s.io/nodes *", "impersonate-on:associated-node:list configmaps ", "list configmaps "},
			[]string{"X-User", account, "X-Node", "n1", "Impersonate-User", "system:node:n1"}, 200, ""},
		{"another's node", []string{"impersonate:associated-node authentication.k8s.io/nodes *", "impersonate-on:associated-node:list configmaps "},
			[]string{"X-User", account, "X-Node", "n1", "Impersonate-User", "system:node:n2"}, 403, "cannot impersonate-on:arbitrary-node:list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newServer(t, func(cfg *Config) { cfg.Authenticator, cfg.Authorizer = agents{}, permits{c.permits} }).Handler()
			headers := c.headers
			if !slices.Contains(headers, "X-User") {
				headers = append([]string{"X-User", "dave"}, headers...)
			}
			w := call(t, h, "GET", configMaps, "", headers...)
			if w.Code != c.code || !strings.Contains(strings.ReplaceAll(w.Body.String(), `\"`, `"`), c.text) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}
