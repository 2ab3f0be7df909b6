package authn

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
)

func TestBootstrapTokens(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	const id, secret = "abcdef", "0123456789abcdef"
	good := func() map[string]string {
		return map[string]string{BootstrapTokenID: id, BootstrapTokenSecret: secret, BootstrapTokenAuthentication: "true"}
	}
	for _, c := range []struct {
		name   string
		token  string
		change func(*corev1.Secret, map[string]string)
		groups []string // nil: refused
	}{
		{name: "as upstream keeps it", groups: []string{"system:bootstrappers", "system:authenticated"}},
		{name: "hashed", change: func(_ *corev1.Secret, d map[string]string) {
			delete(d, BootstrapTokenSecret)
			d[BootstrapTokenHash] = HashBootstrapToken(id, secret)
		}, groups: []string{"system:bootstrappers", "system:authenticated"}},
		{name: "groups", change: func(_ *corev1.Secret, d map[string]string) {
			d[BootstrapTokenGroups] = "system:bootstrappers:worker,system:bootstrappers:kubeadm:default-node-token"
		}, groups: []string{"system:bootstrappers", "system:bootstrappers:worker", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}},
		{name: "a group that tokens may not give", change: func(_ *corev1.Secret, d map[string]string) { d[BootstrapTokenGroups] = "system:masters" }},
		{name: "not over yet", change: func(_ *corev1.Secret, d map[string]string) {
			d[BootstrapTokenExpiration] = noon.Add(time.Second).Format(time.RFC3339)
		},
			groups: []string{"system:bootstrappers", "system:authenticated"}},
		{name: "over", change: func(_ *corev1.Secret, d map[string]string) { d[BootstrapTokenExpiration] = noon.Format(time.RFC3339) }},
		{name: "an end that is no time", change: func(_ *corev1.Secret, d map[string]string) { d[BootstrapTokenExpiration] = "tomorrow" }},
		{name: "not for logging in", change: func(_ *corev1.Secret, d map[string]string) { delete(d, BootstrapTokenAuthentication) }},
		{name: "another type", change: func(s *corev1.Secret, _ map[string]string) { s.Type = corev1.SecretTypeOpaque }},
		{name: "another id inside", change: func(_ *corev1.Secret, d map[string]string) { d[BootstrapTokenID] = "ghijkl" }},
		{name: "another namespace", change: func(s *corev1.Secret, _ map[string]string) { s.Namespace = "default" }},
		{name: "no secret at all", change: func(_ *corev1.Secret, d map[string]string) { delete(d, BootstrapTokenSecret) }},
		{name: "a wrong secret", token: id + ".0123456789abcdeX"},
		{name: "another secret", token: id + ".fedcba9876543210"},
		{name: "the hash itself", token: id + "." + HashBootstrapToken(id, secret)},
		{name: "no such token", token: "zzzzzz." + secret},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := lookuptest.New(t)
			data := good()
			s := &corev1.Secret{ObjectMeta: meta("kube-system", BootstrapTokenName+id), Type: corev1.SecretTypeBootstrapToken}
			if c.change != nil {
				c.change(s, data)
			}
			s.Data = map[string][]byte{}
			for k, v := range data {
				s.Data[k] = []byte(v)
			}
			store.Put(s)
			a := New(Config{Bootstrap: &BootstrapTokens{Secrets: store.Objects, Clock: clocktesting.NewFakePassiveClock(noon)}})
			if c.token == "" {
				c.token = id + "." + secret
			}
			got, err := a.AuthenticateToken(t.Context(), c.token, nil)
			if c.groups == nil {
				if err == nil {
					t.Errorf("accepted as %v", got.User)
				}
				return
			}
			if err != nil || got.User.GetName() != "system:bootstrap:abcdef" || !slices.Equal(got.User.GetGroups(), c.groups) {
				t.Errorf("got %v, %v", got.User, err)
			}
		})
	}
}
