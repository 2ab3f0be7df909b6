package bootstrapsigner

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
)

func token(id string, change ...func(s *corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true")},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func with(key, value string) func(*corev1.Secret) {
	return func(s *corev1.Secret) { s.Data[key] = []byte(value) }
}

func ending(d time.Duration) func(*corev1.Secret) {
	return with("expiration", time.Now().Add(d).UTC().Format(time.RFC3339))
}

// The signature is that of RFC 7515, computed here by its letter.
func TestSign(t *testing.T) {
	got := sign("content", "abcdef", []byte("0123456789abcdef"))
	header, rest, ok := strings.Cut(got, "..")
	if !ok {
		t.Fatal(got)
	}
	if h, err := base64.RawURLEncoding.DecodeString(header); err != nil || string(h) != `{"alg":"HS256","kid":"abcdef"}` {
		t.Errorf("header %q, %v", h, err)
	}
	mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
	mac.Write([]byte(header + ".Y29udGVudA"))
	if s, err := base64.RawURLEncoding.DecodeString(rest); err != nil || !hmac.Equal(s, mac.Sum(nil)) {
		t.Errorf("signature %x, %v", s, err)
	}
}

func TestWhichTokensSign(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		token *corev1.Secret
		want  bool
	}{
		"a token":              {token("abcdef"), true},
		"for an hour":          {token("abcdef", ending(time.Hour)), true},
		"over":                 {token("abcdef", ending(-time.Hour)), false},
		"no time":              {token("abcdef", with("expiration", "soon")), false},
		"not for signing":      {token("abcdef", with("usage-bootstrap-signing", "yes")), false},
		"without its secret":   {token("abcdef", with("token-secret", "")), false},
		"another id":           {token("abcdef", with("token-id", "fedcba")), false},
		"no id":                {token("ABCDEF"), false},
		"a long id":            {token("abcdefg"), false},
		"another name":         {token("abcdef", func(s *corev1.Secret) { s.Name = "abcdef" }), false},
		"another namespace":    {token("abcdef", func(s *corev1.Secret) { s.Namespace = "default" }), false},
		"another type":         {token("abcdef", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), false},
		"one that is going":    {token("abcdef", func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }), false},
		"one with a key short": {token("abcdef", with("token-secret", "x")), true},
	} {
		if _, _, ok := signs(tt.token, now); ok != tt.want {
			t.Errorf("%s: %t", name, ok)
		}
	}
}

func TestSignaturesFollowTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientset(token("aaaaaa"), token("bbbbbb", ending(time.Hour)), token("cccccc", ending(-time.Hour)),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "one", "jws-kubeconfig-zzzzzz": "old", "mine": "kept"}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "one"}})
		f := informers.New(c)
		ctl, err := New(c, f, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		keys := func(namespace string) string {
			t.Helper()
			synctest.Wait()
			cm, err := c.CoreV1().ConfigMaps(namespace).Get(ctx, "cluster-info", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(slices.Sorted(maps.Keys(cm.Data)), " ")
		}
		expect := func(when, want string) {
			t.Helper()
			if got := keys("kube-public"); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		time.Sleep(time.Second)
		expect("at first", "jws-kubeconfig-aaaaaa jws-kubeconfig-bbbbbb kubeconfig mine")
		time.Sleep(time.Hour)
		expect("after an hour", "jws-kubeconfig-aaaaaa kubeconfig mine")
		if _, err := c.CoreV1().Secrets("kube-system").Create(ctx, token("dddddd"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.CoreV1().Secrets("kube-system").Delete(ctx, "bootstrap-token-aaaaaa", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		expect("with another token", "jws-kubeconfig-dddddd kubeconfig mine")
		if got := keys("default"); got != "kubeconfig" {
			t.Errorf("another one's ConfigMap has %s", got)
		}
		writes := func() (n int) {
			for _, a := range c.Actions() {
				if a.GetVerb() == "update" {
					n++
				}
			}
			return n
		}
		before := writes()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := writes() - before; n > 0 {
			t.Errorf("%d writes in a day in which nothing happened", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	})
}
