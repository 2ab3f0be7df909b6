package imagepull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/internal/node/imagelogin"
)

// site is a node whose registry lets those in who know the password.
type site struct {
	t        *testing.T
	dir      string
	rt       *fakecri.Runtime
	password string // "" lets everybody in
	pulls    int
	pods     int
	p        *Puller
	logins   []imagelogin.Login // what credential providers say
	asked    int                // how often they were asked
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), rt: fakecri.New(), password: "good"}
	s.rt.Pull = func(_ context.Context, _ string, a *runtimeapi.AuthConfig) error {
		s.pulls++
		if s.password != "" && (a == nil || a.Password != s.password) {
			return errors.New("unauthorized")
		}
		return nil
	}
	s.restart()
	return s
}

// restart is another process on the same node.
func (s *site) restart() {
	s.t.Helper()
	records, err := OpenRecords(s.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.p = New(&fakecri.Images{Runtime: s.rt}, clock.RealClock{}, 2, records)
}

// use is a pod that wants an image; the answer is "" if it gets it, and how often the registry was asked.
func (s *site) use(image string, policy corev1.PullPolicy, secrets ...*corev1.Secret) string {
	s.t.Helper()
	s.pods++
	before := s.pulls
	_, err := s.p.Ensure(s.t.Context(), Request{Key: fmt.Sprint(s.pods), Image: image, Policy: policy, Secrets: secrets, Logins: s.ask, Event: func(_, _, _ string) {}})
	reason := "ok"
	if err != nil {
		reason = err.Reason
	}
	return fmt.Sprint(reason, " ", s.pulls-before)
}

func (s *site) ask(_ context.Context, image string) []imagelogin.Login {
	s.asked++
	if image != "reg.example.com/app" {
		s.t.Errorf("asked for logins of %s", image)
	}
	return s.logins
}

func (s *site) expect(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func login(namespace, name, uid, password string) *corev1.Secret {
	s := secret(`{"auths":{"reg.example.com":{"username":"u","password":"` + password + `"}}}`)
	s.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
	return s
}

const private = "reg.example.com/app:1"

func TestWhoMayUseAnImage(t *testing.T) {
	s := newSite(t)
	mine := login("a", "s", "1", "good")
	s.expect("pulled with a secret", s.use(private, corev1.PullIfNotPresent, mine), "ok 1")
	s.expect("the same secret", s.use(private, corev1.PullIfNotPresent, mine), "ok 0")
	s.expect("none", s.use(private, corev1.PullIfNotPresent), "ErrImagePull 1")
	s.expect("a bad one", s.use(private, corev1.PullIfNotPresent, login("b", "s", "2", "bad")), "ErrImagePull 1")
	s.expect("none, and no pull", s.use(private, corev1.PullNever), "ErrImageNeverPull 0")
	s.expect("the secret, and no pull", s.use(private, corev1.PullNever, mine), "ok 0")
	s.expect("the same words in another's", s.use(private, corev1.PullIfNotPresent, login("c", "t", "3", "good")), "ok 0")
	s.expect("which is known now, whatever it says", s.use(private, corev1.PullIfNotPresent, login("c", "t", "3", "new")), "ok 0")
	s.expect("a secret for another registry", s.use(private, corev1.PullIfNotPresent, secret(`{"auths":{"quay.io":{"username":"u","password":"good"}}}`)), "ErrImagePull 1")
	s.restart()
	s.expect("after a restart, the secret", s.use(private, corev1.PullIfNotPresent, mine), "ok 0")
	s.expect("after a restart, none", s.use(private, corev1.PullIfNotPresent), "ErrImagePull 1")
	s.password = ""
	s.expect("the registry opens", s.use(private, corev1.PullIfNotPresent), "ok 1")
	s.expect("then it is for everybody", s.use(private, corev1.PullIfNotPresent), "ok 0")
}

func TestLoginsOfProviders(t *testing.T) {
	s := newSite(t)
	of := func(name, password string) []imagelogin.Login {
		return []imagelogin.Login{{Username: "u", Password: password, Account: &imagelogin.Account{Namespace: "a", Name: name, UID: name}}}
	}
	asked := func(what string, want int) {
		t.Helper()
		if s.asked != want {
			t.Errorf("%s: providers were asked %d times, want %d", what, s.asked, want)
		}
		s.asked = 0
	}
	s.logins = of("one", "good")
	s.expect("secrets come first", s.use(private, corev1.PullIfNotPresent, login("a", "s", "1", "bad")), "ok 2")
	asked("a pull", 1)
	s.expect("the same account", s.use(private, corev1.PullIfNotPresent), "ok 0")
	asked("an image with accounts", 1)
	s.expect("the same account, no pull", s.use(private, corev1.PullNever), "ok 0")
	s.logins = of("two", "bad")
	s.asked = 0
	s.expect("another", s.use(private, corev1.PullIfNotPresent), "ErrImagePull 1")
	asked("who may not have it", 1)
	s.logins = of("two", "good")
	s.expect("another that may", s.use(private, corev1.PullIfNotPresent), "ok 1")
	s.restart()
	s.logins = of("one", "bad")
	s.expect("after a restart", s.use(private, corev1.PullIfNotPresent), "ok 0")
	s.asked = 0
	s.logins = nil
	mine := login("a", "s", "1", "good")
	s.expect("a secret as well", s.use(private, corev1.PullIfNotPresent, mine), "ok 1")
	s.asked = 0
	s.expect("which is known then", s.use(private, corev1.PullIfNotPresent, mine), "ok 0")
	asked("a secret that is known", 0)
	s.logins = []imagelogin.Login{{Username: "u", Password: "good"}}
	s.expect("the node's own", s.use(private, corev1.PullIfNotPresent), "ok 1")
	s.logins = nil
	s.asked = 0
	s.expect("is for everybody", s.use(private, corev1.PullIfNotPresent), "ok 0")
	asked("an image for everybody", 0)
}

func TestImagesThatWereNotPulled(t *testing.T) {
	s := newSite(t)
	s.rt.AddImage(private)
	s.expect("brought by hand", s.use(private, corev1.PullNever), "ok 0")
	s.expect("and wanted from the registry", s.use(private, corev1.PullAlways), "ErrImagePull 1")
	s.expect("which changes nothing", s.use(private, corev1.PullIfNotPresent), "ok 0")
}

// A pull that the process did not see the end of brought an image that is for nobody yet.
func TestPullThatWasCutOff(t *testing.T) {
	s := newSite(t)
	if err := s.p.records.begin(private); err != nil {
		t.Fatal(err)
	}
	if err := s.p.records.begin("reg.example.com/never:1"); err != nil {
		t.Fatal(err)
	}
	s.rt.AddImage(private)
	s.restart()
	s.expect("another pull fails first", s.use(private, corev1.PullAlways, login("b", "s", "2", "bad")), "ErrImagePull 1")
	s.expect("none", s.use(private, corev1.PullNever), "ErrImageNeverPull 0")
	s.expect("a good secret", s.use(private, corev1.PullIfNotPresent, login("a", "s", "1", "good")), "ok 1")
	left, err := os.ReadDir(s.p.records.pulling)
	if err != nil || len(left) != 0 {
		t.Errorf("%d pulls are said to be under way (%v)", len(left), err)
	}
}

func TestForgottenImages(t *testing.T) {
	s := newSite(t)
	s.use(private, corev1.PullIfNotPresent, login("a", "s", "1", "good"))
	for ref := range s.p.records.known {
		if err := s.p.records.Forget(ref); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.p.records.Forget("none"); err != nil {
		t.Error(err)
	}
	s.restart()
	if n := len(s.p.records.known); n != 0 {
		t.Errorf("%d are known", n)
	}
	// Of one that was removed while no process ran nothing is known either.
	if err := s.p.records.store(&record{Ref: "sha256:gone", Repositories: map[string]access{}}); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.use(private, corev1.PullNever)
	if n := len(s.p.records.known); n != 0 {
		t.Errorf("%d are known", n)
	}
}

func TestBrokenRecord(t *testing.T) {
	s := newSite(t)
	if err := os.WriteFile(fileOf(s.p.records.pulled, "x"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fileOf(s.p.records.pulling, "y"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	const half = ".half.json.new"
	if err := os.WriteFile(filepath.Join(s.p.records.pulled, half), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.restart()
	mine := login("a", "s", "1", "good")
	s.expect("others", s.use(private, corev1.PullIfNotPresent, mine), "ok 1")
	if exists(filepath.Join(s.p.records.pulled, half)) {
		t.Error("what was half written is still there")
	}
	// A record that cannot be read is one that names nobody.
	for ref := range s.p.records.known {
		if err := os.WriteFile(fileOf(s.p.records.pulled, ref), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.restart()
	s.expect("none", s.use(private, corev1.PullIfNotPresent), "ErrImagePull 1")
	s.expect("the secret", s.use(private, corev1.PullIfNotPresent, mine), "ok 1")
}
