package policy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// keeping is a world with a policy for the pod "old".
func keeping(t *testing.T, file string) (*bench, func()) {
	named, blocked := intstr.FromString("http"), []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.1/32"}}}}
	far := apiPod("ns", "far", "there", "10.0.1.1", map[string]string{"app": "one"})
	far.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}
	return newBenchKeeping(t, file, true, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, far,
		apiPod("ns", "old", "here", "10.0.0.1", map[string]string{"app": "web"}), apiPod("ns", "lost", "here", "10.0.0.2", nil),
		apiPolicy("one", networkingv1.NetworkPolicySpec{
			PodSelector: selects("web"),
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: from("one")}, {From: blocked}},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: from("one"), Ports: []networkingv1.NetworkPolicyPort{{Port: &named}}}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}))
}

// kept lets an enforcer see the world, and end.
func kept(t *testing.T) (file, inForce string) {
	file = filepath.Join(t.TempDir(), "policies")
	b, end := keeping(t, file)
	b.run()
	<-b.e.Working()
	inForce, _ = b.path.look()
	end()
	if inForce == "" {
		t.Fatal("nothing is in force")
	}
	return file, inForce
}

// TestRestartWithoutAPI: what was in force is put back if it is gone, and stays otherwise; new pods wait.
func TestRestartWithoutAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, before := kept(t)
		b, _ := keeping(t, file)
		b.expect(before) // the tables were gone
		if _, replaced := b.path.look(); replaced != 1 {
			t.Errorf("made %d times", replaced)
		}
		waits := b.waits(b.ctx, Sandbox{ID: "new", Namespace: "ns", Name: "new", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.3")}})
		b.path.wipe()
		b.tampering <- struct{}{}
		b.expect(before)
		b.path.set(errors.New("no"))
		b.path.wipe()
		b.tampering <- struct{}{}
		b.expect("")
		b.path.set(nil)
		time.Sleep(2 * retryFirst)
		b.expect(before)
		if yes, _ := waits(); yes {
			t.Error("a new pod is on the network")
		}
		// The API is back, and its policy is another.
		if err := b.client.NetworkingV1().NetworkPolicies("ns").Delete(b.ctx, "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.run()
		<-b.e.Working()
		b.expect("")
		if yes, err := waits(); !yes || err != nil {
			t.Errorf("the new pod: %v, %v", yes, err)
		}
		time.Sleep(2 * keepAfter)
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nobody is restricted, and the file is there: %v", err)
		}
	})
}

// TestTablesThatStand are not touched before the API has been asked: they may be newer than the file.
func TestTablesThatStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, _ := kept(t)
		ctx, cancel := context.WithCancel(t.Context())
		b, end := keeping(t, filepath.Join(t.TempDir(), "none"))
		end()
		b.path.set(nil)
		b.path.has = "newer"
		b.e.cfg.Keep = file
		done := make(chan error, 1)
		go func() { done <- b.e.Run(ctx) }()
		b.expect("newer")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFileIsWrittenWhileItRuns: a process that is killed has no time to write.
func TestFileIsWrittenWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "policies")
		b, _ := keeping(t, file)
		b.run()
		<-b.e.Working()
		time.Sleep(2 * keepAfter)
		synctest.Wait()
		m, err := recall(file)
		if err != nil || m == nil {
			t.Fatalf("%v, %v", m, err)
		}
		has, _ := b.path.look()
		if got := show(m.desired(b.e.cfg.Sandboxes)); got != has {
			t.Errorf("the file has %s\nin force: %s", got, has)
		}
	})
}

// TestUnknownAndDamaged: what is not known for sure is shut in.
func TestUnknownAndDamaged(t *testing.T) {
	boxes := []Sandbox{{ID: "old", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, {ID: "unknown", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}}
	m := &memoir{Format: keepFormat, Boxes: map[string]Restriction{"old": {}, "gone": {closed, closed}}}
	const shut = "10.0.0.9 egress: closed; 10.0.0.9 ingress: closed"
	if got := show(m.desired(boxes)); got != shut {
		t.Errorf("got %s", got)
	}
	dir := t.TempDir()
	if m, err := recall(filepath.Join(dir, "none")); m != nil || err != nil {
		t.Errorf("without a file: %v, %v", m, err)
	}
	for name, text := range map[string]string{
		"cut":     `{"format":1,"sandboxes":{"old":["",`,
		"version": `{"format":2,"sandboxes":{"old":["",""]}}`,
		"chain":   `{"format":1,"sandboxes":{"old":["x",""]}}`,
		"set":     `{"format":1,"chains":{"x":{"Rest":[{"Set":"pods-1"}]}},"sandboxes":{"old":["x",""]}}`,
		"null":    `{"format":1,"chains":{"x":null},"sandboxes":{"old":["",""]}}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := recall(path)
		if err == nil || m == nil {
			t.Fatalf("%s: %v, %v", name, m, err)
		}
		if got := show(m.desired(boxes)); got != "10.0.0.1 egress: closed; 10.0.0.1 ingress: closed; "+shut {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestUnseen: users of pods whose packets the rules don't see are told, once, and only if there is a policy for them.
func TestUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, apiPod("ns", "hidden", "here", "10.0.0.7", map[string]string{"app": "web"}))
		b.run()
		<-b.e.Working()
		box := Sandbox{ID: "h", Namespace: "ns", Name: "hidden", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Unseen: errors.New("its bridge keeps to itself")}
		if err := b.e.Attach(b.ctx, box); err != nil {
			t.Fatal(err)
		}
		expect := func(want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.warnings) != want {
				t.Errorf("said %q", b.warnings)
			}
		}
		expect(0)
		for _, n := range []string{"one", "two"} {
			if _, err := b.client.NetworkingV1().NetworkPolicies("ns").Create(b.ctx, apiPolicy(n, networkingv1.NetworkPolicySpec{PodSelector: selects("web")}), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			expect(1)
		}
	})
}
