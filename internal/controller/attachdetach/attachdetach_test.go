package attachdetach

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sum(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

type stage struct {
	*controllertest.Env
	t       *testing.T
	events  *record.FakeRecorder
	volume  *corev1.PersistentVolume
	counted *prometheus.Registry
}

func newStage(t *testing.T) *stage {
	return newStageThrough(t, func(e *controllertest.Env) kubernetes.Interface { return e.Client })
}

// newStageThrough is newStage with a client for the controller.
func newStageThrough(t *testing.T, client func(*controllertest.Env) kubernetes.Interface) *stage {
	e := controllertest.Start(t)
	s := &stage{Env: e, t: t, events: record.NewFakeRecorder(1000), counted: prometheus.NewRegistry()}
	ctl, err := New(Config{Client: client(e), Informers: e.Informers, Recorder: s.events, Clock: clock.RealClock{}, Registry: s.counted})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	c, err := e.Client.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Phase = corev1.ClaimBound
	if _, err := e.Client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.volume = csi("v", corev1.ReadWriteOnce)
	s.volume.Spec.Capacity, s.volume.Spec.ClaimRef = size, &corev1.ObjectReference{Namespace: "default", Name: "c", UID: c.UID}
	if _, err := e.Client.CoreV1().PersistentVolumes().Create(ctx, s.volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"n1", "n2"} {
		if _, err := e.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n, Annotations: map[string]string{managed: "true"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Run(t, ctl)
	return s
}

func (s *stage) pod(name, node string) {
	s.t.Helper()
	if _, err := s.Client.CoreV1().Pods("default").Create(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}},
	}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// attach plays the driver's attacher.
func (s *stage) attach(node string) {
	s.t.Helper()
	ctx := context.Background()
	controllertest.Eventually(s.t, func() error {
		a, err := s.Client.StorageV1().VolumeAttachments().Get(ctx, attachmentName(s.volume, node), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if a.Spec.Attacher != "a.example" || a.Spec.NodeName != node || *a.Spec.Source.PersistentVolumeName != "v" {
			s.t.Errorf("attachment %+v", a.Spec)
		}
		a.Status.Attached = true
		_, err = s.Client.StorageV1().VolumeAttachments().UpdateStatus(ctx, a, metav1.UpdateOptions{})
		return err
	})
}

func (s *stage) reported(node string, want ...corev1.AttachedVolume) {
	s.t.Helper()
	controllertest.Eventually(s.t, func() error {
		n, err := s.Client.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
		if err == nil && !sameVolumes(want, n.Status.VolumesAttached) {
			err = fmt.Errorf("attached %v, want %v", n.Status.VolumesAttached, want)
		}
		return err
	})
}

func (s *stage) event(want string) {
	s.t.Helper()
	select {
	case got := <-s.events.Events:
		if !strings.HasPrefix(got, want) {
			s.t.Errorf("event %q, want %q", got, want)
		}
	case <-time.After(controllertest.Patience):
		s.t.Fatalf("no event %q", want)
	}
}

func TestVolumeMovesFromNodeToNode(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		s := newStage(t)
		move(t, s)
		s.counts(`attachdetach_controller_total_volumes{kubernetes.io/csi:a.example,actual_state_of_world}=1`,
			`attachdetach_controller_total_volumes{kubernetes.io/csi:a.example,desired_state_of_world}=1`, `storage_count_attachable_volumes_in_use{n2,kubernetes.io/csi:a.example}=1`,
			`storage_operation_duration_seconds{false,volume_attach,success,kubernetes.io/csi:a.example}=2`, `storage_operation_duration_seconds{false,volume_detach,success,kubernetes.io/csi:a.example}=1`)
	})
	// A conflict says that somebody else wrote. Whatever it was about, the volume comes where it should be.
	t.Run("conflicts", func(t *testing.T) {
		var conflicts controllertest.Conflicts
		s := newStageThrough(t, func(e *controllertest.Env) kubernetes.Interface { return e.Through(t, conflicts.Refuse) })
		move(t, s)
		for _, want := range []string{
			"POST /apis/storage.k8s.io/v1/volumeattachments", "DELETE /apis/storage.k8s.io/v1/volumeattachments/" + attachmentName(s.volume, "n1"), "PATCH /api/v1/nodes/n1/status",
		} {
			if refused := conflicts.Refused(); !slices.Contains(refused, want) {
				t.Errorf("%s was not tried, but %q", want, refused)
			}
		}
	})
}

// counts waits until volumes are counted as wanted, as name{labels}=value.
func (s *stage) counts(want ...string) {
	s.t.Helper()
	controllertest.Eventually(s.t, func() error {
		families, err := s.counted.Gather()
		if err != nil {
			return err
		}
		var got []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				var labels []string
				for _, l := range m.GetLabel() {
					labels = append(labels, l.GetValue())
				}
				value := m.GetGauge().GetValue()
				switch {
				case m.GetCounter() != nil:
					value = m.GetCounter().GetValue()
				case m.GetHistogram() != nil:
					value = float64(m.GetHistogram().GetSampleCount())
				}
				got = append(got, fmt.Sprintf("%s{%s}=%v", f.GetName(), strings.Join(labels, ","), value))
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("counted %q, want %q", got, want)
		}
		return nil
	})
}

func move(t *testing.T, s *stage) {
	t.Helper()
	ctx := context.Background()
	s.pod("p", "n1")
	s.attach("n1")
	s.event(`Normal SuccessfulAttachVolume AttachVolume.Attach succeeded for volume "v" `)
	s.reported("n1", corev1.AttachedVolume{Name: "kubernetes.io/csi/a.example^h-v"})
	// The node has it mounted; a pod on another node has to wait, and is told so.
	controllertest.Eventually(t, func() error {
		n, err := s.Client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.VolumesInUse = []corev1.UniqueVolumeName{uniqueName(s.volume)}
		_, err = s.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		return err
	})
	s.pod("q", "n2")
	s.event(`Warning FailedAttachVolume Waiting for detach for volume "v" Volume is already used by pod(s) p`)
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		n, err := s.Client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.VolumesInUse = nil
		_, err = s.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		return err
	})
	s.reported("n1")
	s.attach("n2")
	s.event(`Normal SuccessfulAttachVolume`)
	s.reported("n2", corev1.AttachedVolume{Name: "kubernetes.io/csi/a.example^h-v"})
	if _, err := s.Client.StorageV1().VolumeAttachments().Get(ctx, attachmentName(s.volume, "n1"), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("still attached to n1: %v", err)
	}
}

func TestDriverThatNeedsNone(t *testing.T) {
	s := newStage(t)
	ctx := context.Background()
	s.pod("p", "n1")
	s.attach("n1")
	if _, err := s.Client.StorageV1().CSIDrivers().Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "a.example"}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := s.Client.StorageV1().VolumeAttachments().Get(ctx, attachmentName(s.volume, "n1"), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still attached: %v", err)
		}
		return nil
	})
}
