package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
)

// TestEventsOutliveTheServer ends and kills a server: events, which are kept beside etcd, are there afterwards as they were, and their
// revisions go on.
func TestEventsOutliveTheServer(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, controlPlaneOnly...)
	journal := filepath.Join(m.DataDir, "events.journal")
	known := map[string]*corev1.Event{}
	newest := uint64(0)
	for round, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		name := fmt.Sprint("round-", round)
		known[name] = tellEvent(t, c, name)
		for name, was := range known {
			revision, err := strconv.ParseUint(was.ResourceVersion, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if name == fmt.Sprint("round-", round) && revision <= newest {
				t.Errorf("round %d: a new event has revision %d, the one before %d", round, revision, newest)
			}
			newest = max(newest, revision)
		}
		if end == syscall.SIGKILL { // what is not in the file yet may be lost
			machine.Wait(t, "the event to be in the journal", func(context.Context) error {
				data, err := os.ReadFile(journal)
				if err == nil && !bytes.Contains(data, []byte(name)) {
					err = errors.New("not there")
				}
				return err
			})
		}
		if err := m.Signal(end); err != nil {
			t.Fatal(err)
		}
		c = startOn(t, m, controlPlaneOnly...)
		for name, was := range known {
			now, err := c.CoreV1().Events("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Errorf("after %v in round %d: %v", end, round, err)
			} else if now.UID != was.UID || now.ResourceVersion != was.ResourceVersion || now.Message != was.Message {
				t.Errorf("after %v in round %d the event is %v, before %v", end, round, now, was)
			}
		}
	}
}

func tellEvent(t *testing.T, c kubernetes.Interface, name string) *corev1.Event {
	t.Helper()
	e, err := c.CoreV1().Events("default").Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
		Reason: "Told", Message: "something about " + name, Type: corev1.EventTypeNormal,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}
