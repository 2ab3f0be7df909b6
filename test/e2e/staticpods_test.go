package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/celox/celox/test/e2e/machine"
)

// TestStaticPods: a node runs the pods of its directory without being told by the API, shows them there, and nobody but the files can change or end them.
func TestStaticPods(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "manifests") // the node makes it; it goes after the machine, which looks at it to the end
	m := machine.ForTest(t)
	if err := m.Start("--pod-manifest-path", dir); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, m)
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, m: m, command: []string{bin, "kubectl"}, ns: "default"}
	file := filepath.Join(dir, "boot.yaml")
	write := func(word string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(podManifest("boot", "echo "+word+"; exec sleep 1000000")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pod := "pod/boot-" + u.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	ids := func() (uid, container string) {
		t.Helper()
		r := u.do(nil, "get", pod, "-o", "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}")
		uid, container, _ = strings.Cut(r.out, " ")
		return uid, container
	}
	runs := func(word string) (uid, container string) {
		t.Helper()
		machine.Wait(t, "the static pod says "+word, func(context.Context) error {
			if r := u.do(nil, "logs", pod); r.out != word+"\n" {
				return fmt.Errorf("%s%s", r.out, r.err)
			}
			return nil
		})
		u.await(pod, "condition=Ready")
		return ids()
	}

	write("one")
	uid, container := runs("one")
	u.kubectl("delete", pod)
	machine.Wait(t, "the pod is shown again", func(context.Context) error {
		again, same := ids()
		if again == "" || again == uid || same != container {
			return fmt.Errorf("uid %q (was %s), container %q (was %s)", again, uid, same, container)
		}
		return nil
	})

	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := m.Start("--pod-manifest-path", dir); err != nil {
		t.Fatal(err)
	}
	if _, now := runs("one"); now != container {
		t.Errorf("after a restart of the node it is %s, not %s", now, container)
	}

	write("two")
	if _, now := runs("two"); now == container {
		t.Error("the container of a changed manifest is the old one")
	}

	// Its manifest goes while the node is away.
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := m.Start("--pod-manifest-path", dir); err != nil {
		t.Fatal(err)
	}
	u.kubectl("wait", pod, "--for=delete", "--timeout="+patience.String())
}
