package imagepull

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/fakecri"
)

func secret(json string) *corev1.Secret {
	return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(json)}}
}

func TestMatching(t *testing.T) {
	all := credentials([]*corev1.Secret{
		secret(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"reg.example.com":{"username":"a","password":"b"},"reg.example.com/team":{"username":"t"},"*.wild.org:5000":{"username":"w"}}}`),
		secret(`not json`),
		{Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"old.example.com":{"username":"o"}}`)}},
	})
	tests := map[string]string{
		"docker.io/library/nginx": "u:p",
		"reg.example.com/app":     "a:b",
		"reg.example.com/team/x":  "t: a:b",
		"reg.example.com/teamx":   "a:b",
		"x.wild.org:5000/y":       "w:",
		"x.wild.org/y":            "",
		"a.b.wild.org:5000/y":     "",
		"old.example.com/z":       "o:",
		"quay.io/z":               "",
	}
	for image, want := range tests {
		got := ""
		for i, a := range matching(all, image) {
			if i > 0 {
				got += " "
			}
			got += a.auth.Username + ":" + a.auth.Password
		}
		if got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"auths":{"x":{"auth":"dTpw"}}}`))
	f.Add([]byte(`{"auths":{"":{"auth":"?"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		matching(credentials([]*corev1.Secret{secret(string(data))}), "docker.io/library/nginx")
	})
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{"nginx": "nginx:latest", "nginx:1": "nginx:1", "a.b/c/d": "a.b/c/d:latest"} {
		if got, err := Name(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	_, err := Name("UPPER")
	if want := `Failed to apply default image tag "UPPER": couldn't parse image name "UPPER": invalid reference format: repository name (library/UPPER) must be lowercase`; err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
}

func TestPolicies(t *testing.T) {
	rt := fakecri.New()
	rt.AddImage("have:1")
	p := New(&fakecri.Images{Runtime: rt}, clock.RealClock{}, 2, nil)
	ensure := func(image string, policy corev1.PullPolicy) (Image, *Error, string) {
		last := ""
		i, err := p.Ensure(context.Background(), Request{Key: image, Image: image, Policy: policy, Event: func(_, reason, _ string) { last += reason + " " }})
		return i, err, last
	}
	if i, err, events := ensure("have:1", corev1.PullIfNotPresent); err != nil || i.Ref != "sha256:have:1" || events != "Pulled " {
		t.Errorf("%+v, %v, %s", i, err, events)
	}
	if i, err, events := ensure("have:1", corev1.PullAlways); err != nil || i.Ref != "sha256:have:1" || events != "Pulling Pulled " {
		t.Errorf("%+v, %v, %s", i, err, events)
	}
	if _, err, _ := ensure("none:1", corev1.PullNever); err == nil || err.Reason != ReasonNeverPull || err.Message != `Container image "none:1" is not present with pull policy of Never` {
		t.Errorf("%v", err)
	}
	if _, err, _ := ensure("BAD", corev1.PullAlways); err == nil || err.Reason != ReasonInvalidName || !err.RetryAt.IsZero() {
		t.Errorf("%v", err)
	}
}

func TestOnePullForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fakecri.New()
		var mu sync.Mutex
		pulls := 0
		rt.Pull = func(ctx context.Context, _ string, _ *runtimeapi.AuthConfig) error {
			mu.Lock()
			pulls++
			mu.Unlock()
			time.Sleep(time.Second)
			return nil
		}
		p := New(&fakecri.Images{Runtime: rt}, clock.RealClock{}, 5, nil)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := p.Ensure(t.Context(), Request{Key: "k", Image: "x:1", Policy: corev1.PullIfNotPresent, Event: func(_, _, _ string) {}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if pulls != 1 {
			t.Errorf("%d pulls", pulls)
		}
	})
}

func TestBackOffDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fakecri.New()
		rt.Pull = func(context.Context, string, *runtimeapi.AuthConfig) error { return errors.New("no") }
		p := New(&fakecri.Images{Runtime: rt}, clock.RealClock{}, 5, nil)
		request := Request{Key: "k", Image: "x:1", Policy: corev1.PullAlways, Event: func(_, _, _ string) {}}
		for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			_, err := p.Ensure(t.Context(), request)
			if err == nil || err.Reason != ReasonPull || time.Until(err.RetryAt) != want*time.Second {
				t.Fatalf("%v, retry in %v, want %v", err, time.Until(err.RetryAt), want*time.Second)
			}
			_, again := p.Ensure(t.Context(), request)
			if again == nil || again.Reason != ReasonBackOff || !again.RetryAt.Equal(err.RetryAt) {
				t.Fatalf("%v", again)
			}
			time.Sleep(time.Until(err.RetryAt))
		}
	})
}
