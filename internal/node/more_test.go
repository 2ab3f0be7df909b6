package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/internal/node/pressure"
	"github.com/celox/celox/internal/node/server"
)

func (r *rig) update(name string, edit func(*corev1.Pod)) {
	r.t.Helper()
	pod := r.get(name)
	edit(pod)
	if _, err := r.client.CoreV1().Pods("default").Update(r.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func TestEphemeralContainerAndResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p"))
		pass(time.Second)
		r.update("p", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "tools:1"}, TargetContainerName: "c",
			}}
		})
		pass(time.Second)
		pod := r.get("p")
		if len(pod.Status.EphemeralContainerStatuses) != 1 || pod.Status.EphemeralContainerStatuses[0].State.Running == nil {
			t.Fatalf("%+v", pod.Status.EphemeralContainerStatuses)
		}
		ns := r.runtime.Config(r.runtime.Container("p", "debug")).Linux.SecurityContext.NamespaceOptions
		if ns.Pid != runtimeapi.NamespaceMode_TARGET || ns.TargetId != r.runtime.Container("p", "c") {
			t.Errorf("namespaces %v", ns)
		}
		r.update("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		})
		pass(time.Second)
		got, err := r.runtime.ContainerStatus(t.Context(), r.runtime.Container("p", "c"), false)
		if err != nil || got.Status.Resources.Linux.MemoryLimitInBytes != 64<<20 {
			t.Errorf("%v, %v", got, err)
		}
		if n := r.get("p").Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("a resize restarted the container %d times", n)
		}
	})
}

func TestEmptyDirOverItsLimitIsEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.adjust = func(c *Config) {
			c.Pressure = pressure.Thresholds{Memory: pressure.Amount{Quantity: 1}}
		}
		r.start()
		defer func() { r.stop() }()
		limit := resource.MustParse("64Ki")
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		}))
		pass(15 * time.Second)
		if got := r.get("p").Status.Phase; got != corev1.PodRunning {
			t.Fatalf("phase %s", got)
		}
		file := filepath.Join(r.root, "node/pods/uid-p/volumes/kubernetes.io~empty-dir/v/big")
		if err := os.WriteFile(file, make([]byte, 128<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		pass(15 * time.Second)
		pod := r.get("p")
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Evicted" || pod.Status.Message != `Usage of EmptyDir volume "v" exceeds the limit "64Ki". ` {
			t.Errorf("%s %s %s", pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		}
		if got := condition(pod, corev1.DisruptionTarget); !strings.HasPrefix(got, "True TerminationByKubelet ") {
			t.Errorf("DisruptionTarget is %q", got)
		}
	})
}

// A pod is deleted while its container starts. The runtime sees a start through: the container runs, and then it is stopped as any other.
func TestDeletedWhileItsContainerStarts(t *testing.T) {
	const startTakes = 20 * time.Second
	for name, test := range map[string]struct {
		remove func(r *rig)
		// after is when everything must be gone, counted from the deletion, 10 s into the start.
		after time.Duration
	}{
		"gracefully":                {func(r *rig) { r.remove("p", 30) }, 41 * time.Second},
		"with a short grace period": {func(r *rig) { r.remove("p", 1) }, 41 * time.Second},
		"by force": {func(r *rig) {
			if err := r.client.CoreV1().Pods("default").Delete(r.t.Context(), "p", metav1.DeleteOptions{}); err != nil {
				r.t.Fatal(err)
			}
		}, 41 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.runtime.BeforeStart = func(context.Context, *runtimeapi.ContainerConfig) { time.Sleep(startTakes) }
				r.start()
				defer func() { r.stop() }()
				r.create(testPod("p"))
				pass(startTakes / 2)
				test.remove(r)
				pass(test.after)
				if r.exists("p") {
					t.Errorf("the pod is still there: %+v", r.get("p").Status)
				}
				sandboxes, err := r.runtime.ListPodSandbox(t.Context(), nil)
				if err != nil || len(sandboxes) != 0 {
					t.Errorf("sandboxes left: %v, %v", sandboxes, err)
				}
				containers, err := r.runtime.ListContainers(t.Context(), nil)
				if err != nil || len(containers) != 0 {
					t.Errorf("containers left: %v, %v", containers, err)
				}
				r.node.mu.Lock()
				workers := len(r.node.workers)
				r.node.mu.Unlock()
				if workers != 0 {
					t.Errorf("%d workers are left", workers)
				}
				if _, err := os.Stat(filepath.Join(r.root, "node/pods/uid-p")); !os.IsNotExist(err) {
					t.Errorf("the pod's directory: %v", err)
				}
				calls := strings.Join(r.runtime.Calls(), ", ")
				started, stopped := strings.Index(calls, "StartContainer c"), strings.Index(calls, "StopPodSandbox p")
				if started < 0 || stopped < started {
					t.Errorf("calls: %s", calls)
				}
			})
		})
	}
}

func TestPostStartFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.OnExec = func(context.Context, *runtimeapi.ContainerConfig, []string) (string, int, error) {
			return "boom", 1, nil
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		}))
		pass(5 * time.Second)
		r.wantEvent("FailedPostStartHook", "PostStartHook failed")
		cs := r.get("p").Status.ContainerStatuses[0]
		waiting(t, cs, "CrashLoopBackOff", "back-off 10s")
	})
}

func TestRunContainerErrorAndTerminationMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.FailStart = func(c *runtimeapi.ContainerConfig) error {
			if c.Metadata.Name == "broken" {
				return errors.New(`exec: "nope": executable file not found in $PATH`)
			}
			return nil
		}
		r.runtime.Life = func(c *runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			if c.Metadata.Name == "talks" {
				for _, m := range c.Mounts {
					if m.ContainerPath == "/dev/termination-log" {
						if err := os.WriteFile(m.HostPath, []byte("last words"), 0o666); err != nil {
							t.Error(err)
						}
					}
				}
				return time.Second, fakecri.Exit{Code: 1}, true
			}
			return time.Second, fakecri.Exit{Code: 2}, true
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.Containers = []corev1.Container{
				{Name: "broken", Image: "web:1"},
				{Name: "talks", Image: "web:1", TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile},
				{Name: "logs", Image: "web:1", TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError},
			}
		}))
		pass(5 * time.Second)
		pod := r.get("p")
		got := map[string]string{}
		for _, cs := range pod.Status.ContainerStatuses {
			got[cs.Name] = describeState(cs.State)
			// One that never started has CRI's zero for a start: a time that clients can show.
			if end := cs.State.Terminated; end != nil && (end.StartedAt.Unix() == 0) != (cs.Name == "broken") {
				t.Errorf("%s started at %s", cs.Name, end.StartedAt)
			}
		}
		want := map[string]string{
			"broken": `terminated StartError 128 "exec: \"nope\": executable file not found in $PATH"`,
			"talks":  `terminated Error 1 "last words"`,
			"logs":   `terminated Error 2 "hello from logs\n"`,
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s, want %s", k, got[k], v)
			}
		}
		if pod.Status.Phase != corev1.PodFailed {
			t.Errorf("phase %s", pod.Status.Phase)
		}
		r.wantEvent("Failed", `Error: exec: "nope": executable file not found in $PATH`)
	})
}

func TestVolumesAreUpdatedLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default", ResourceVersion: "1"}, Data: map[string]string{"f": "one"}})
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Labels = map[string]string{"a": "b"}
			p.Spec.Volumes = []corev1.Volume{
				{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
				{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
			}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}, {Name: "d", MountPath: "/d"}}
		}))
		pass(time.Second)
		paths := map[string]string{}
		for _, m := range r.runtime.Config(r.runtime.Container("p", "c")).Mounts {
			paths[m.ContainerPath] = m.HostPath
		}
		check := func(path, want string) {
			t.Helper()
			data, err := os.ReadFile(path)
			if err != nil || string(data) != want {
				t.Errorf("%s is %q, %v; want %q", filepath.Base(path), data, err, want)
			}
		}
		check(paths["/v"]+"/f", "one")
		check(paths["/d"]+"/labels", `a="b"`)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default", ResourceVersion: "2"}, Data: map[string]string{"f": "two"}}
		if _, err := r.client.CoreV1().ConfigMaps("default").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.update("p", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "c"} })
		pass(time.Second)
		check(paths["/v"]+"/f", "two")
		check(paths["/d"]+"/labels", `a="c"`)
		r.wantNoEvent("FailedMount")
	})
}

func (r *rig) wantNoEvent(reason string) {
	r.t.Helper()
	if got := r.events(reason); len(got) > 0 {
		r.t.Errorf("events %s: %q", reason, got)
	}
}

func TestMissingVolumeObjectIsReportedAndCured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}}
		}))
		pass(time.Second)
		r.wantEvent("FailedMount", `MountVolume.SetUp failed for volume "v" : configmap "cm" not found`)
		waiting(t, r.get("p").Status.ContainerStatuses[0], "ContainerCreating", "")
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default", ResourceVersion: "2"}}
		if _, err := r.client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(100 * time.Millisecond)
		if got := r.get("p").Status.Phase; got != corev1.PodRunning {
			t.Errorf("phase %s", got)
		}
	})
}

func TestLogsThroughTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Pull = func(_ context.Context, image string, _ *runtimeapi.AuthConfig) error {
			if image == "slow:1" {
				time.Sleep(time.Hour)
			}
			return nil
		}
		r.runtime.Life = func(c *runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) {
			return 5 * time.Second, fakecri.Exit{Code: 1}, true
		}
		r.start()
		defer func() { r.stop() }()
		r.create(testPod("p"))
		r.create(testPod("slow", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "slow:1" }))
		pass(time.Second)
		b := &backend{n: r.node}
		logs := func(pod string, o server.LogOptions) (string, error) {
			var out bytes.Buffer
			err := b.Logs(t.Context(), "default", pod, "c", o, func() {}, &out, io.Discard)
			return out.String(), err
		}
		if got, err := logs("p", server.LogOptions{}); err != nil || got != "hello from c\n" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := logs("slow", server.LogOptions{}); err == nil || err.Error() != `container "c" in pod "slow" is waiting to start: ContainerCreating` || !apierrors.IsBadRequest(err) {
			t.Errorf("error %v", err)
		}
		if _, err := logs("p", server.LogOptions{Previous: true}); err == nil || err.Error() != `previous terminated container "c" in pod "p" not found` {
			t.Errorf("error %v", err)
		}
		if _, err := logs("none", server.LogOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("error %v", err)
		}
		pass(5 * time.Second)
		if got, err := logs("p", server.LogOptions{Previous: true}); err != nil || got != "hello from c\n" {
			t.Errorf("%q, %v", got, err)
		}
		s, err := b.n.api.Backend.Summary(t.Context())
		if err != nil || len(s.Pods) == 0 || s.Node.NodeName != testNode {
			t.Errorf("%+v, %v", s, err)
		}
		if pods := b.Pods(); len(pods) != 2 {
			t.Errorf("%d pods", len(pods))
		}
	})
}

// TestNamesakes has a pod replaced by one of the same name while its container is still being stopped: who asks by name means the new one.
func TestNamesakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.runtime.Life = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit, bool) { return 0, fakecri.Exit{}, false }
		r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) { return time.Minute, fakecri.Exit{} }
		r.start()
		defer func() { r.stop() }()
		b := &backend{n: r.node}
		for i := range 5 {
			uid := types.UID(fmt.Sprint("uid-", i))
			r.create(testPod("db-0", func(p *corev1.Pod) { p.UID = uid }))
			_, p, _, err := b.find("default", "db-0", "")
			if err != nil || p.UID != uid {
				t.Errorf("found %v, %v; want %s", p, err, uid)
			}
			pass(2 * time.Second)
			if _, p, _, err := b.find("default", "db-0", ""); err != nil || p.UID != uid {
				t.Errorf("later found %v, %v; want %s", p, err, uid)
			}
			if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "db-0", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
	})
}

func TestStaticPodHasAMirror(t *testing.T) {
	// Not in a bubble: the kernel tells about the directory.
	r := newRig(t)
	dir := t.TempDir()
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: fixed, namespace: default}\nspec:\n  containers: [{name: c, image: 'web:1'}]\n"
	if err := os.WriteFile(filepath.Join(dir, "fixed.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	r.adjust = func(c *Config) { c.StaticPodDir = dir }
	r.startReal()
	defer func() { r.stop() }()
	r.until("the mirror's status", func() bool {
		pod, err := r.client.CoreV1().Pods("default").Get(t.Context(), "fixed-n1", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning && isMirror(pod)
	})
	// Somebody deletes the mirror: the API has marked it.
	pods := r.client.CoreV1().Pods("default")
	marked, err := pods.Get(t.Context(), "fixed-n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	marked.DeletionTimestamp = &now
	if _, err := pods.Update(t.Context(), marked, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.until("another mirror", func() bool {
		pod, err := pods.Get(t.Context(), "fixed-n1", metav1.GetOptions{})
		return err == nil && pod.DeletionTimestamp == nil
	})
	if calls := strings.Join(r.runtime.Calls(), ","); strings.Contains(calls, "StopContainer") || strings.Contains(calls, "StopPodSandbox") {
		t.Errorf("the end of its image stopped the pod: %s", calls)
	}
	if err := os.Remove(filepath.Join(dir, "fixed.yaml")); err != nil {
		t.Fatal(err)
	}
	r.until("the end", func() bool {
		return !r.exists("fixed-n1") && strings.Contains(strings.Join(r.runtime.Calls(), ","), "RemovePodSandbox fixed-n1")
	})
}

// until looks again and again whether something has happened: nobody tells about what the node writes.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for range 2400 {
		if ok() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	r.t.Fatalf("%s didn't happen: %v", what, r.runtime.Calls())
}

// TestStaticPodComesBackWhileItEnds: a manifest that is put back before its pod has ended makes it begin anew when it has, with an image that says so.
func TestStaticPodComesBackWhileItEnds(t *testing.T) {
	// Not in a bubble: the kernel tells about the directory.
	r := newRig(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "fixed.yaml")
	write := func() {
		t.Helper()
		manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: fixed, namespace: default}\nspec:\n  containers: [{name: c, image: 'web:1'}]\n"
		if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	ending, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.runtime.FailStopSandbox = func(string) error {
		once.Do(func() {
			close(ending)
			<-goOn
		})
		return nil
	}
	r.adjust = func(c *Config) { c.StaticPodDir = dir }
	r.startReal()
	defer func() { r.stop() }()
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	running := func() (container string) {
		t.Helper()
		r.until("the mirror's status", func() bool {
			pod, err := r.client.CoreV1().Pods("default").Get(t.Context(), "fixed-n1", metav1.GetOptions{})
			if err != nil || pod.Status.Phase != corev1.PodRunning {
				return false
			}
			container = pod.Status.ContainerStatuses[0].ContainerID
			return true
		})
		return container
	}
	before := running()
	static := r.node.static.Get(types.NamespacedName{Namespace: "default", Name: "fixed-n1"})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	<-ending
	r.until("the end of the image", func() bool { return !r.exists("fixed-n1") })
	write()
	r.until("the manifest", func() bool { return r.node.static.Pod(static.UID) != nil })
	release()
	if after := running(); after == before {
		t.Errorf("the container is still %s", after)
	}
}
