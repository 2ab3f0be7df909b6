package imagelogin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, image string
		want           bool
	}{
		{"reg.example.com", "reg.example.com/app", true},
		{"reg.example.com", "reg.example.com:5000/app", false},
		{"reg.example.com:5000", "reg.example.com:5000/app", true},
		{"reg.example.com:5000", "reg.example.com/app", false},
		{"reg.example.com:5000/team", "reg.example.com:5000/team/app", true},
		{"reg.example.com/team", "reg.example.com/teams/app", true}, // a prefix of letters, not of parts
		{"reg.example.com/team", "reg.example.com/app", false},
		{"*.example.com", "reg.example.com/app", true},
		{"*.example.com", "example.com/app", false},
		{"*.com", "example.example.com/app", false},
		{"*.*.registry.io", "a.b.registry.io/x", true},
		{"reg.*.com", "reg.example.com/app", true},
		{"app*.k8s.io", "app7.k8s.io/x", true},
		{"k8s.*", "k8s.io/x", true},
		{"*", "localhost/x", true},
		{"*:*", "localhost:5000/x", false},
		{"reg.example.com/*", "reg.example.com/app", false},
		{"[", "reg.example.com/app", false},
		{"docker.io/library", "docker.io/library/nginx", true},
	}
	for _, tt := range tests {
		if got := matches(tt.pattern, tt.image); got != tt.want {
			t.Errorf("%s matches %s: %t", tt.pattern, tt.image, got)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("*.example.com:5000/x", "reg.example.com:5000/x/y")
	f.Add("[::1]:5", "%")
	f.Fuzz(func(t *testing.T, pattern, image string) {
		matches(patternOf(pattern), image)
	})
}

const head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n"

// site is a node with plugins, which are scripts: each writes down what it is told, and says what is in a file.
type site struct {
	t     *testing.T
	dir   string
	clock *clocktesting.FakePassiveClock
	log   bytes.Buffer
	p     *Providers

	accounts map[string]*corev1.ServiceAccount // by namespace/name
	token    string
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{t: t, dir: t.TempDir(), clock: clocktesting.NewFakePassiveClock(time.Unix(1e9, 0)), accounts: map[string]*corev1.ServiceAccount{}, token: "token-1"}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string, mode os.FileMode) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), mode); err != nil {
		s.t.Fatal(err)
	}
}

// plugin makes a plugin.
func (s *site) plugin(name string) {
	s.t.Helper()
	s.write(name, "#!/bin/sh\n{ cat; echo \" $* $COLOUR\"; } >>\"$0.asked\"\n. \"$0.answer\"\n", 0o755)
}

// answers has a plugin say something from now on.
func (s *site) answers(name, rest string) {
	s.t.Helper()
	s.write(name+".answer", `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",`+rest+`}'`, 0o644)
}

func (s *site) open(providers string) {
	s.t.Helper()
	s.write("config.yaml", head+"providers:\n"+providers, 0o644)
	p, err := Open(Config{
		Path: s.path("config.yaml"), BinDir: s.dir, Clock: s.clock, Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Account: func(_ context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
			if sa := s.accounts[namespace+"/"+name]; sa != nil {
				return sa, nil
			}
			return nil, errors.New("no such account")
		},
		Token: func(_ context.Context, pod *corev1.Pod, audience string) (string, error) {
			return s.token + " of " + pod.Spec.ServiceAccountName + " for " + audience, nil
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.p = p
}

// asked is what a plugin was told since the last time.
func (s *site) asked(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name + ".asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	s.write(name+".asked", "", 0o644)
	return string(data)
}

func (s *site) pod(account string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "1"}, Spec: corev1.PodSpec{ServiceAccountName: account}}
}

// use says which logins a pod has for an image, and how often plugin a was asked.
func (s *site) use(image, account string) string {
	s.t.Helper()
	out := ""
	for _, l := range s.p.For(s.t.Context(), s.pod(account), image) {
		out += l.Username + ":" + l.Password
		if l.Account != nil {
			out += fmt.Sprint(*l.Account)
		}
		out += " "
	}
	return out + fmt.Sprint(strings.Count(s.asked("a"), "\n"))
}

func (s *site) expect(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %s, want %s\n%s", what, got, want, s.log.String())
	}
}

const one = `- name: a
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example.com", docker.io]
  defaultCacheDuration: 10m
`

func TestPluginIsToldAndAsked(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.open(one + "  args: [get, --all]\n  env: [{name: COLOUR, value: red}]\n")
	s.answers("a", `"cacheKeyType":"Image","auth":{"reg.example.com":{"username":"u","password":"p"},"other.example.com":{"username":"x","password":"y"}}`)
	got := s.p.For(t.Context(), s.pod(""), "reg.example.com/app")
	if len(got) != 1 || got[0] != (Login{Username: "u", Password: "p"}) {
		t.Errorf("%+v", got)
	}
	s.expect("request", s.asked("a"), `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"reg.example.com/app"} get --all red`+"\n")
	s.expect("an image of others", s.use("quay.io/app", ""), "0")
}

func TestWhatIsKept(t *testing.T) {
	for kind, want := range map[string]string{"Image": "u:p 0|u:p 1|u:p 1", "Registry": "u:p 0|u:p 0|u:p 1", "Global": "u:p 0|u:p 0|u:p 0"} {
		s := newSite(t)
		s.plugin("a")
		s.open(one)
		s.answers("a", `"cacheKeyType":"`+kind+`","auth":{"*.example.com":{"username":"u","password":"p"}}`)
		s.expect("first", s.use("reg.example.com/app", ""), "u:p 1")
		got := s.use("reg.example.com/app", "") + "|" + s.use("reg.example.com/other", "") + "|" + s.use("r.example.com/app", "")
		s.expect(kind, got, want)
		s.clock.SetTime(s.clock.Now().Add(10 * time.Minute))
		s.expect("in time", s.use("reg.example.com/app", ""), "u:p 0")
		s.clock.SetTime(s.clock.Now().Add(time.Second))
		s.expect("too late", s.use("reg.example.com/app", ""), "u:p 1")
		s.answers("a", `"cacheKeyType":"`+kind+`","cacheDuration":"1h","auth":{"*.example.com":{"username":"u","password":"p"}}`)
		s.clock.SetTime(s.clock.Now().Add(time.Hour))
		s.expect("kept for longer", s.use("reg.example.com/app", ""), "u:p 1")
		s.clock.SetTime(s.clock.Now().Add(time.Hour))
		s.expect("by its own word", s.use("reg.example.com/app", ""), "u:p 0")
		s.answers("a", `"cacheKeyType":"`+kind+`","cacheDuration":"0s","auth":{"*.example.com":{"username":"u","password":"p"}}`)
		s.clock.SetTime(s.clock.Now().Add(time.Second))
		s.use("reg.example.com/app", "")
		s.expect("not kept", s.use("reg.example.com/app", ""), "u:p 1")
	}
}

func TestOrder(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.plugin("b")
	s.open(one + strings.Replace(one, "name: a", "name: b", 1))
	s.answers("a", `"cacheKeyType":"Image","auth":{"*.example.com":{"username":"wild","password":""},"reg.example.com":{"username":"host","password":""},"https://index.docker.io/v1/":{"username":"hub","password":""}}`)
	s.answers("b", `"cacheKeyType":"Image","auth":{"reg.example.com":{"username":"second","password":""},"http://reg.example.com/v2/team":{"username":"team","password":""}}`)
	s.expect("longest first, then the earlier provider", s.use("reg.example.com/team/app", ""), "team: host: second: wild: 1")
	s.expect("the default registry", s.use("docker.io/library/nginx", ""), "hub: 1")
}

func TestBadPlugins(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"fails", "echo no cloud >&2; echo secret; exit 3", "exit status 3: no cloud"},
		{"no JSON", "echo secret", "no JSON"},
		{"another version", `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","cacheKeyType":"Image","auth":{"reg.example.com":{"password":"secret"}}}'`, "must be a CredentialProviderResponse"},
		{"another kind", `echo '{"kind":"Secret","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}'`, "must be a CredentialProviderResponse"},
		{"no key type", `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","auth":{"reg.example.com":{"password":"secret"}}}'`, "must be Image, Registry or Global"},
		{"too much", "head -c 2000000 /dev/zero", "says more than"},
		{"no logins", `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":null}'`, ""},
	}
	for _, tt := range tests {
		s := newSite(t)
		s.plugin("a")
		s.open(one)
		s.write("a.answer", tt.script, 0o644)
		s.expect(tt.name, s.use("reg.example.com/app", ""), "1")
		if log := s.log.String(); !strings.Contains(log, tt.want) || tt.want == "" && log != "" || strings.Contains(log, "secret") {
			t.Errorf("%s: %s", tt.name, log)
		}
	}
}

const tokens = `  tokenAttributes:
    serviceAccountTokenAudience: reg
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [example.com/role]
    optionalServiceAccountAnnotationKeys: [example.com/more]
`

func (s *site) account(name string, annotations map[string]string) {
	s.accounts["ns/"+name] = &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Annotations: annotations}}
}

func TestTokens(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.open(one + tokens)
	s.answers("a", `"cacheKeyType":"Registry","auth":{"reg.example.com":{"username":"u","password":"p"}}`)
	s.account("x", map[string]string{"example.com/role": "r", "other": "o"})
	s.account("y", map[string]string{"example.com/role": "r", "example.com/more": "m"})
	s.account("z", nil)
	s.expect("an account", s.use("reg.example.com/app", "x"), "u:p{ns x uid-x} 1")
	s.expect("again, another image", s.use("reg.example.com/other", "x"), "u:p{ns x uid-x} 0")
	s.token = "token-2"
	s.expect("again, another token", s.use("reg.example.com/app", "x"), "u:p{ns x uid-x} 0")
	s.p.For(t.Context(), s.pod("y"), "reg.example.com/app")
	s.expect("request", s.asked("a"), `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"reg.example.com/app",`+
		`"serviceAccountToken":"token-2 of y for reg","serviceAccountAnnotations":{"example.com/more":"m","example.com/role":"r"}}  `+"\n")
	s.expect("one that wants none", s.use("reg.example.com/app", "z"), "0")
	s.expect("no account", s.use("reg.example.com/app", ""), "0")
	if s.log.Len() > 0 {
		t.Errorf("log: %s", s.log.String())
	}
	s.expect("one that is gone", s.use("reg.example.com/app", "gone"), "0")
	if !strings.Contains(s.log.String(), "no such account") {
		t.Errorf("log: %s", s.log.String())
	}
	s.account("x", map[string]string{"example.com/role": "changed"})
	s.expect("annotations changed", s.use("reg.example.com/app", "x"), "u:p{ns x uid-x} 1")
}

func TestTokenAsPassword(t *testing.T) {
	for cacheType, want := range map[string]string{"ServiceAccount": "1", "Token": "u:token-1 of x for reg{ns x uid-x} 1"} {
		s := newSite(t)
		s.plugin("a")
		s.open(one + strings.Replace(tokens, "cacheType: ServiceAccount", "cacheType: "+cacheType, 1))
		s.account("x", map[string]string{"example.com/role": "r"})
		s.answers("a", `"cacheKeyType":"Image","auth":{"reg.example.com":{"username":"u","password":"token-1 of x for reg"}}`)
		s.expect(cacheType, s.use("reg.example.com/app", "x"), want)
		if cacheType == "ServiceAccount" {
			continue
		}
		s.expect("the same token", s.use("reg.example.com/app", "x"), "u:token-1 of x for reg{ns x uid-x} 0")
		s.token = "token-2"
		s.expect("another token", s.use("reg.example.com/app", "x"), "u:token-1 of x for reg{ns x uid-x} 1")
	}
}

func TestPodsWithoutAccount(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.open(one + "  tokenAttributes: {serviceAccountTokenAudience: reg, cacheType: Token, requireServiceAccount: false}\n")
	s.answers("a", `"cacheKeyType":"Image","auth":{"reg.example.com":{"username":"u","password":"p"}}`)
	s.expect("none", s.use("reg.example.com/app", ""), "u:p 1")
	s.account("x", nil)
	s.expect("one", s.use("reg.example.com/app", "x"), "u:p{ns x uid-x} 1")
}

func TestBadConfigurations(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "use a CredentialProviderConfig of kubelet.config.k8s.io/v1"},
		{"another kind", "apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\n", "use a CredentialProviderConfig"},
		{"unknown field", head + "colour: red\n", `unknown field "colour"`},
		{"none", head + "providers: []\n", "providers: name at least one"},
		{"no program", head + "providers:\n" + strings.Replace(one, "name: a", "name: none", 1), "there is no program "},
		{"a path", head + "providers:\n" + strings.Replace(one, "name: a", "name: ../a", 1), `providers[0].name: "../a" must be`},
		{"twice", head + "providers:\n" + one + one, `providers[1].name: "a" is there twice`},
		{"version", head + "providers:\n" + strings.Replace(one, "k8s.io/v1", "k8s.io/v7", 1), "providers[0].apiVersion: "},
		{"no images", head + "providers:\n- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, defaultCacheDuration: 1m}\n", "providers[0].matchImages: name at least one"},
		{"bad image", head + "providers:\n- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, defaultCacheDuration: 1m, matchImages: ['a:b']}\n", "providers[0].matchImages: "},
		{"no duration", head + "providers:\n- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [a]}\n", "providers[0].defaultCacheDuration: give"},
		{"negative", head + "providers:\n" + strings.Replace(one, "10m", "-1s", 1), "a time that is not negative"},
		{"tokens, nothing said", head + "providers:\n" + one + "  tokenAttributes: {}\n", "tokenAttributes.requireServiceAccount: use"},
		{"tokens, cache type", head + "providers:\n" + one + strings.Replace(tokens, "cacheType: ServiceAccount", "cacheType: Pod", 1), `cacheType: "Pod" is not known`},
		{"tokens, old version", head + "providers:\n" + strings.Replace(one, "k8s.io/v1", "k8s.io/v1beta1", 1) + tokens, "tokenAttributes.apiVersion: "},
		{"tokens, annotations of nobody", head + "providers:\n" + one + strings.Replace(tokens, "Account: true", "Account: false", 1), "requiredServiceAccountAnnotationKeys: need"},
		{"tokens, a key twice", head + "providers:\n" + one + strings.Replace(tokens, "example.com/more", "example.com/role", 1), "is there twice"},
		{"tokens, no key", head + "providers:\n" + one + strings.Replace(tokens, "example.com/more", "a b", 1), `annotation keys: "a b"`},
	}
	for _, tt := range tests {
		s := newSite(t)
		s.plugin("a")
		s.write("config.yaml", tt.text, 0o644)
		_, err := Open(Config{Path: s.path("config.yaml"), BinDir: s.dir})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestDirectoryOfConfigurations(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := read(dir); err == nil {
		t.Error("an empty directory is no error")
	}
	for name, provider := range map[string]string{"20.json": "b", "10.yaml": "a", "30.yml": "c", "README": ""} {
		text := head + "providers:\n" + strings.Replace(one, "name: a", "name: "+provider, 1)
		if provider == "" {
			text = "nothing"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, hash, err := read(dir)
	if err != nil || len(all) != 3 || all[0].Name+all[1].Name+all[2].Name != "abc" || !strings.HasPrefix(hash, "sha256:") {
		t.Errorf("%+v, %s, %v", all, hash, err)
	}
}

func TestOneQuestionForAllWhoWait(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.open(one)
	s.answers("a", `"cacheKeyType":"Image","auth":{"reg.example.com":{"username":"u","password":"p"}}`)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got := s.p.For(t.Context(), s.pod(""), "reg.example.com/app"); len(got) != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(s.asked("a"), "\n"); n != 1 || len(s.p.list[0].busy) != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestPluginThatHangsEndsWithItsCaller(t *testing.T) {
	s := newSite(t)
	s.plugin("a")
	s.open(one)
	s.write("a.answer", "echo >\"$0.began\"; exec sleep 1000", 0o644)
	if err := syscall.Mkfifo(s.path("a.began"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan []Login)
	go func() { done <- s.p.For(ctx, s.pod(""), "reg.example.com/app") }()
	if _, err := os.ReadFile(s.path("a.began")); err != nil { // waits for the plugin
		t.Fatal(err)
	}
	cancel()
	if got := <-done; got != nil {
		t.Errorf("%+v", got)
	}
}
