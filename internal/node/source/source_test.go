package source

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: nginx}]\n"

func TestParse(t *testing.T) {
	pods, err := Parse([]byte(manifest), "Node1", "file", "/x")
	if err != nil {
		t.Fatal(err)
	}
	p := pods[0]
	if p.Name != "web-node1" || p.Namespace != "default" || p.Spec.NodeName != "Node1" || p.UID == "" || p.Annotations["kubernetes.io/config.source"] != "file" {
		t.Errorf("%+v", p.ObjectMeta)
	}
	if c := p.Spec.Containers[0]; c.ImagePullPolicy != corev1.PullAlways || c.TerminationMessagePath == "" || p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("%+v", p.Spec)
	}
	for _, bad := range []string{"", "kind: Service", "{", "kind: Pod\nmetadata: {name: BAD}\nspec: {containers: [{name: c}]}", "kind: Pod\nmetadata: {name: x}"} {
		if _, err := Parse([]byte(bad), "n", "file", ""); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{manifest, "kind: PodList\nitems: []", "[]", "null"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pods, err := Parse(data, "n", "file", "x")
		if err != nil {
			return
		}
		for _, p := range pods {
			if p.UID == "" || p.Spec.NodeName != "n" || p.Namespace == "" {
				t.Errorf("%+v", p.ObjectMeta)
			}
		}
	})
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	updates, removals := make(chan *corev1.Pod, 10), make(chan types.UID, 10)
	s := NewSet(Config{
		NodeName: "n", Dir: dir, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
		Update: func(p *corev1.Pod) { updates <- p }, Remove: func(uid types.UID) { removals <- uid },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	file := filepath.Join(dir, "web.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func() *corev1.Pod {
		t.Helper()
		select {
		case p := <-updates:
			return p
		case <-time.After(time.Minute):
			t.Fatal("no update")
			return nil
		}
	}
	write(manifest)
	first := expect()
	if s.Get(types.NamespacedName{Namespace: "default", Name: "web-n"}) == nil {
		t.Error("the pod cannot be found by name")
	}
	write(manifest + "  hostNetwork: true\n")
	second := expect()
	if second.UID == first.UID {
		t.Error("a changed manifest has the same uid")
	}
	if uid := <-removals; uid != first.UID {
		t.Errorf("removed %s", uid)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	select {
	case uid := <-removals:
		if uid != second.UID {
			t.Errorf("removed %s", uid)
		}
	case <-time.After(time.Minute):
		t.Error("no removal")
	}
}
