package observed

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/fakecri"
)

func TestReadFindsWhatAnEarlierNodeMade(t *testing.T) {
	grace := int64(7)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace}}
	container := &corev1.Container{Name: "c", Image: "web:1", TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError}
	rt := fakecri.New()
	ctx := t.Context()
	sandbox, err := rt.RunPodSandbox(ctx, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u"}, Labels: PodLabels(pod)}, "")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		labels := PodLabels(pod)
		labels[LabelContainerName] = "c"
		id, err := rt.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: uint32(n)}, Image: &runtimeapi.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "web:1"},
			Labels: labels, Annotations: ContainerAnnotations(pod, container, n, "/host/file"),
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		if n < 2 {
			rt.Finish(id, fakecri.Exit{Code: int32(n + 1)})
		}
	}
	r := NewReader(rt)
	for range 2 { // the second time what has ended comes from memory
		got, err := r.Read(ctx, "u")
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != "p" || got.Namespace != "ns" || got.ReadySandbox() == nil || len(got.Sandbox().IPs) != 1 || len(got.Containers) != 3 || !got.AnyRunning() {
			t.Fatalf("%+v", got)
		}
		latest, previous := got.Latest("c"), got.Previous("c")
		if !latest.Running() || latest.RestartCount != 2 || latest.Image != "web:1" || latest.Hash != ContainerHash(container) {
			t.Errorf("%+v", latest)
		}
		if !previous.Exited() || previous.ExitCode != 2 || previous.TerminationPolicy() != corev1.TerminationMessageFallbackToLogsOnError {
			t.Errorf("%+v", previous)
		}
		if g, ok := previous.GracePeriod(); !ok || g != 7*time.Second {
			t.Errorf("grace period %v %v", g, ok)
		}
	}
	if none, err := r.Read(ctx, "other"); err != nil || none.Sandbox() != nil || none.Latest("c") != nil {
		t.Errorf("%+v, %v", none, err)
	}
	changed := *container
	changed.Image = "web:2"
	if ContainerHash(&changed) == ContainerHash(container) {
		t.Error("another image has the same hash")
	}
}
