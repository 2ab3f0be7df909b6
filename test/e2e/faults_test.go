package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
)

// A server is killed this many times while this many writers write.
const (
	killRounds  = 8
	killWriters = 6
)

// written is what a writer knows of the object that only it writes.
type written struct {
	acknowledged int   // the last content that the server confirmed, -1 when there is no object
	revision     int64 // of that confirmation
	attempted    int   // what was on its way when the answer failed to come, or acknowledged
	deleting     bool  // a deletion was on its way
}

// TestKilledDuringWrites kills the server again and again while many clients write, and compares what is there with what was confirmed.
func TestKilledDuringWrites(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, controlPlaneOnly...)
	ctx := eventually(t)
	known := map[string]written{}
	first, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := &watcher{last: first.ResourceVersion, objects: map[string]string{}}
	var newest int64
	var confirmed atomic.Int64
	for round := range killRounds {
		enough := confirmed.Load() + 20 // a kill before anything was confirmed proves nothing
		writing, stop := context.WithCancel(ctx)
		var writers sync.WaitGroup
		results := make([]map[string]written, killWriters)
		mine := maps.Clone(known)
		for w := range killWriters {
			writers.Go(func() { results[w] = writeUntilFailure(writing, t, c, fmt.Sprintf("w%d-", w), mine, &confirmed) })
		}
		writers.Go(func() { seen.follow(writing, t, c) })
		for confirmed.Load() < enough && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond) // any instant will do
		if err := m.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		stop()
		writers.Wait()
		for _, r := range results {
			maps.Copy(known, r)
		}
		c = startOn(t, m, controlPlaneOnly...)
		newest = checkWritten(ctx, t, c, round, known, newest)
		if t.Failed() {
			return
		}
	}
	seen.finish(ctx, t, c)
}

// writeUntilFailure creates, updates and deletes objects of its own until a request fails.
func writeUntilFailure(ctx context.Context, t *testing.T, c kubernetes.Interface, prefix string, before map[string]written, confirmed *atomic.Int64) map[string]written {
	maps2 := c.CoreV1().ConfigMaps("default")
	out := map[string]written{}
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i%3)
		w, ok := out[name]
		if !ok {
			if w, ok = before[name]; !ok {
				w = written{acknowledged: -1}
			}
		}
		next := max(w.attempted, w.acknowledged) + 1
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": strconv.Itoa(next), "body": strings.Repeat(strconv.Itoa(next%10), 2000)}}
		var got *corev1.ConfigMap
		var err error
		switch {
		case w.acknowledged < 0:
			w.attempted = next
			got, err = maps2.Create(ctx, o, metav1.CreateOptions{})
		case i%7 == 6:
			w.deleting = true
			err = maps2.Delete(ctx, name, metav1.DeleteOptions{})
		default:
			w.attempted = next
			got, err = maps2.Update(ctx, o, metav1.UpdateOptions{})
		}
		if err != nil {
			out[name] = w
			if status := apierrors.APIStatus(nil); errors.As(err, &status) && !apierrors.IsServiceUnavailable(err) {
				t.Errorf("%s %d: %v", name, next, err)
			}
			return out
		}
		confirmed.Add(1)
		if got == nil {
			w.acknowledged, w.deleting = -1, false
		} else {
			w.acknowledged = next
			if w.revision, err = strconv.ParseInt(got.ResourceVersion, 10, 64); err != nil {
				t.Error(err)
			}
		}
		out[name] = w
	}
}

// checkWritten compares what is stored with what is known, and brings what is known up to date. It returns the store's revision.
func checkWritten(ctx context.Context, t *testing.T, c kubernetes.Interface, round int, known map[string]written, newest int64) int64 {
	t.Helper()
	list, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if revision < newest {
		t.Errorf("round %d: the revision went back from %d to %d", round, newest, revision)
	}
	there := map[string]corev1.ConfigMap{}
	for _, o := range list.Items {
		there[o.Name] = o
	}
	for name, w := range known {
		if w.revision > revision {
			t.Errorf("round %d: %s was confirmed at revision %d, the store is at %d", round, name, w.revision, revision)
		}
		o, ok := there[name]
		if !ok {
			if w.acknowledged >= 0 && !w.deleting {
				t.Errorf("round %d: %s is lost, content %d was confirmed at %d", round, name, w.acknowledged, w.revision)
			}
			known[name] = written{acknowledged: -1, attempted: w.attempted, revision: w.revision}
			continue
		}
		n, err := strconv.Atoi(o.Data["n"])
		if err != nil || o.Data["body"] != strings.Repeat(strconv.Itoa(n%10), 2000) {
			t.Errorf("round %d: %s is half written: %q", round, name, o.Data)
		}
		if n != w.acknowledged && n != w.attempted {
			t.Errorf("round %d: %s has content %d; %d was confirmed, %d attempted", round, name, n, w.acknowledged, w.attempted)
		}
		at, err := strconv.ParseInt(o.ResourceVersion, 10, 64)
		if err != nil || at < w.revision {
			t.Errorf("round %d: %s has revision %q, %d was confirmed", round, name, o.ResourceVersion, w.revision)
		}
		known[name] = written{acknowledged: n, attempted: n, revision: at}
	}
	return max(revision, newest)
}

// watcher is a client that watches, and after each loss of its connection resumes from the last revision that it saw.
type watcher struct {
	last    string
	objects map[string]string // content by name
	events  int
}

// follow watches until the connection ends.
func (w *watcher) follow(ctx context.Context, t *testing.T, c kubernetes.Interface) {
	stream, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: w.last, AllowWatchBookmarks: true})
	if err != nil {
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			t.Errorf("watch from %s: %v", w.last, err)
		}
		return
	}
	defer stream.Stop()
	for e := range stream.ResultChan() {
		if !w.take(t, e) {
			return
		}
	}
}

func (w *watcher) take(t *testing.T, e watch.Event) bool {
	o, ok := e.Object.(*corev1.ConfigMap)
	if !ok {
		if status, ok := e.Object.(*metav1.Status); ok && status.Code == 410 {
			t.Errorf("watch from %s: %s", w.last, status.Message)
		}
		return false // the connection broke
	}
	last, err := strconv.ParseInt(w.last, 10, 64)
	if err != nil {
		t.Error(err)
		return false
	}
	at, err := strconv.ParseInt(o.ResourceVersion, 10, 64)
	if err != nil || at < last || at == last && e.Type != watch.Bookmark {
		t.Errorf("event %s %s at revision %q after %s", e.Type, o.Name, o.ResourceVersion, w.last)
		return false
	}
	w.last = o.ResourceVersion
	have, exists := w.objects[o.Name]
	switch e.Type {
	case watch.Bookmark:
		return true
	case watch.Added:
		if exists {
			t.Errorf("%s is added at %s and was there", o.Name, o.ResourceVersion)
		}
		w.objects[o.Name] = o.Data["n"]
	case watch.Modified:
		if !exists || have == o.Data["n"] {
			t.Errorf("%s is modified at %s from %q to %q", o.Name, o.ResourceVersion, have, o.Data["n"])
		}
		w.objects[o.Name] = o.Data["n"]
	case watch.Deleted:
		if !exists {
			t.Errorf("%s is deleted at %s and was not there", o.Name, o.ResourceVersion)
		}
		delete(w.objects, o.Name)
	}
	w.events++
	return true
}

// finish watches until everything that is there was seen, and compares.
func (w *watcher) finish(ctx context.Context, t *testing.T, c kubernetes.Interface) {
	t.Helper()
	end, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "end"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: w.last})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Stop()
	for w.last != end.ResourceVersion {
		select {
		case e := <-stream.ResultChan():
			if !w.take(t, e) {
				t.Fatalf("the watch ended after %s with %+v", w.last, e)
			}
		case <-ctx.Done():
			t.Fatalf("revision %s was never seen, the last is %s", end.ResourceVersion, w.last)
		}
	}
	list, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Items {
		if o.Name == "kube-root-ca.crt" {
			continue
		}
		if n, ok := w.objects[o.Name]; !ok || n != o.Data["n"] {
			t.Errorf("%s has content %s, the watcher saw %q", o.Name, o.Data["n"], n)
		}
		delete(w.objects, o.Name)
	}
	delete(w.objects, "kube-root-ca.crt")
	if len(w.objects) > 0 {
		t.Errorf("the watcher saw what is not there: %v", w.objects)
	}
	t.Logf("%d events seen, each once", w.events)
}

// onSmallDisk gives a machine a data directory on a file system of its own with some megabytes.
func onSmallDisk(t *testing.T, megabytes int) (m *machine.Machine, disk string) {
	t.Helper()
	disk = t.TempDir()
	if err := unix.Mount("small", disk, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	m = machine.ForTest(t)
	if err := os.Remove(filepath.Dir(m.DataDir)); err != nil { // it is empty, and nobody knows of it any more
		t.Fatal(err)
	}
	m.DataDir = filepath.Join(disk, "machine", "data")
	if err := os.Mkdir(filepath.Dir(m.DataDir), 0o755); err != nil {
		t.Fatal(err)
	}
	return m, disk
}

// fill writes a file until its file system is full.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, endless{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// bigMap is a config map of some kilobytes.
func bigMap(name string, kilobytes int) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name, "body": strings.Repeat("x", kilobytes<<10)}}
}

// TestDiskFull fills the disk below a running server: nothing that it confirmed may be lost, and it has to say what is wrong.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	m, disk := onSmallDisk(t, 200)
	c := startOn(t, m, controlPlaneOnly...)
	ctx := eventually(t)
	maps := c.CoreV1().ConfigMaps("default")
	filler := filepath.Join(disk, "filler")
	var confirmed []string
	create := func() error {
		name := "big-" + strconv.Itoa(len(confirmed))
		_, err := maps.Create(ctx, bigMap(name, 500), metav1.CreateOptions{})
		if err == nil {
			confirmed = append(confirmed, name)
		}
		return err
	}
	for range 5 {
		if err := create(); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, filler)
	var failed error
	for len(confirmed) < 1000 && failed == nil {
		failed = create()
	}
	if failed == nil {
		t.Fatal("the disk is full, and writes go on for ever")
	}
	t.Logf("%d writes were confirmed, then: %v", len(confirmed), failed)
	// The process ends rather than confirm what it cannot keep, and its last words say why, and what to do.
	code, err := m.Ended()
	if err != nil {
		t.Fatal(err)
	}
	complaint := regexp.MustCompile(`^celox: .*no space left on device.*: the disk of ` + regexp.QuoteMeta(m.DataDir) + ` is full: free some space and start again; .*$`)
	said := strings.Split(strings.TrimSpace(m.Output()), "\n")
	if code != 1 || !complaint.MatchString(said[len(said)-1]) || strings.Contains(m.Output(), "goroutine ") {
		t.Errorf("exit code %d, the server said:\n%s", code, m.Output())
	}
	// A start on a full disk says so, too, if it has to write.
	if err := m.Start(controlPlaneOnly...); err == nil {
		if err := m.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	} else if lines := strings.Split(strings.TrimSpace(err.Error()), "\n"); !complaint.MatchString(lines[len(lines)-1]) || strings.Contains(err.Error(), "goroutine ") {
		t.Errorf("a start on a full disk: %v", err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m, controlPlaneOnly...)
	maps = c.CoreV1().ConfigMaps("default")
	for _, name := range confirmed {
		got, err := maps.Get(ctx, name, metav1.GetOptions{})
		if err != nil || got.Data["name"] != name || len(got.Data["body"]) != 500<<10 {
			t.Errorf("%s was confirmed before the disk was full: %v", name, err)
		}
	}
	if _, err := maps.Create(ctx, bigMap("after", 500), metav1.CreateOptions{}); err != nil {
		t.Errorf("write when there is space again: %v", err)
	}
}

// TestQuotaExceeded fills the database to its quota: writes are refused with etcd's words, reads and deletions go on, and a larger quota helps.
func TestQuotaExceeded(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t, append(controlPlaneOnly, "--etcd-quota-bytes", strconv.Itoa(16<<20))...)
	ctx := eventually(t)
	maps := c.CoreV1().ConfigMaps("default")
	var failed error
	confirmed := 0
	for failed == nil && confirmed < 400 {
		if _, failed = maps.Create(ctx, bigMap("big-"+strconv.Itoa(confirmed), 500), metav1.CreateOptions{}); failed == nil {
			confirmed++
		}
	}
	if failed == nil || !strings.Contains(failed.Error(), "database space exceeded") {
		t.Fatalf("after %d writes: %v", confirmed, failed)
	}
	for i := range confirmed {
		if _, err := maps.Get(ctx, "big-"+strconv.Itoa(i), metav1.GetOptions{}); err != nil {
			t.Errorf("read: %v", err)
		}
	}
	if err := maps.Delete(ctx, "big-0", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "refused"}}, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "database space exceeded") {
		t.Errorf("write of another kind: %v", err)
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m, append(controlPlaneOnly, "--etcd-quota-bytes", strconv.Itoa(256<<20))...)
	machine.Wait(t, "writes to be allowed with a larger quota", func(ctx context.Context) error {
		_, err := c.CoreV1().ConfigMaps("default").Create(ctx, bigMap("after", 500), metav1.CreateOptions{})
		return err
	})
	list, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, m := range list.Items {
		there[m.Name] = true
	}
	// The first write that was refused may be there: etcd carries out the one that exceeds the quota, and complains.
	delete(there, "big-"+strconv.Itoa(confirmed))
	for i := range confirmed {
		if name := "big-" + strconv.Itoa(i); there[name] != (i != 0) {
			t.Errorf("%s is there: %t", name, there[name])
		}
	}
	if len(there) != confirmed+1 { // without big-0, with "after" and the CA
		t.Errorf("%d config maps, %d were confirmed", len(there), confirmed)
	}
}

// TestKilledAtStart kills a server at many instants of its start: the next one has to come up whatever it finds.
func TestKilledAtStart(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		cmd := m.Command(bin, append([]string{"server", "--data-dir", m.DataDir, "--node-name", "early"}, controlPlaneOnly...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := m.NS.Start(cmd); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+i*60) * time.Millisecond) // any instant will do
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("start %d ended by itself: %s\n%s", i, cmd.ProcessState, out.String())
		}
	}
	c := startOn(t, m, controlPlaneOnly...)
	waitServiceAccount(t, c)
}
