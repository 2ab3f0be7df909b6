package persistentvolume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type stage struct {
	*controllertest.Env
	t   *testing.T
	ctl *Controller
	reg *prometheus.Registry
}

// newStage makes a controller over an empty API; it does not run yet.
func newStage(t *testing.T) *stage {
	return newStageThrough(t, func(e *controllertest.Env) kubernetes.Interface { return e.Client })
}

// newStageThrough is newStage with a client for the controller.
func newStageThrough(t *testing.T, client func(*controllertest.Env) kubernetes.Interface) *stage {
	t.Parallel()
	e := controllertest.Start(t)
	s := &stage{Env: e, t: t, reg: prometheus.NewRegistry()}
	var err error
	s.ctl, err = New(Config{Client: client(e), Informers: e.Informers, Recorder: e.Recorder, Clock: clock.RealClock{}, Registry: s.reg, Metrics: controller.NewMetrics(s.reg)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) volume(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	s.t.Helper()
	v.UID, v.Status = "", corev1.PersistentVolumeStatus{}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: corev1.NodeSelectorOpExists}}}}}}
	got, err := s.Client.CoreV1().PersistentVolumes().Create(context.Background(), v, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *stage) claim(name string, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	s.t.Helper()
	c.Name, c.UID = name, ""
	got, err := s.Client.CoreV1().PersistentVolumeClaims("default").Create(context.Background(), c, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// is waits until a volume's phase and claim, or a claim's phase and volume, are as wanted.
func (s *stage) is(want ...string) {
	s.t.Helper()
	controllertest.Eventually(s.t, func() error {
		if got := s.picture(); !slices.Equal(got, want) {
			return fmt.Errorf("got  %q\nwant %q", got, want)
		}
		return nil
	})
}

func (s *stage) picture() []string {
	s.t.Helper()
	ctx := context.Background()
	volumes, err := s.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	claims, err := s.Client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for i := range volumes.Items {
		v := &volumes.Items[i]
		text := v.Name + " " + string(v.Status.Phase)
		if r := v.Spec.ClaimRef; r != nil {
			text += " " + r.Name
			if r.UID == "" {
				text += "?"
			}
		}
		out = append(out, text)
	}
	for i := range claims.Items {
		c := &claims.Items[i]
		out = append(out, strings.TrimSpace(c.Name+" "+string(c.Status.Phase)+" "+c.Spec.VolumeName))
	}
	return out
}

func (s *stage) delete(claim string) {
	s.t.Helper()
	if err := s.Client.CoreV1().PersistentVolumeClaims("default").Delete(context.Background(), claim, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func TestBindAndRelease(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	s.volume(volume("small", "1Gi"))
	s.volume(volume("large", "5Gi"))
	s.is("large Available", "small Available")
	c := s.claim("a", claimOfClass("slow", "2Gi"))
	s.is("large Bound a", "small Available", "a Bound large")
	got, err := s.Client.CoreV1().PersistentVolumeClaims("default").Get(context.Background(), c.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size := got.Status.Capacity[corev1.ResourceStorage]; size.String() != "5Gi" || len(got.Status.AccessModes) != 1 ||
		got.Annotations[volumehelpers.AnnBindCompleted] != "yes" || got.Annotations[volumehelpers.AnnBoundByController] != "yes" {
		t.Errorf("claim %v, %+v", got.Annotations, got.Status)
	}
	s.claim("b", claimOfClass("slow", "2Gi"))
	s.is("large Bound a", "small Available", "a Bound large", "b Pending")
	s.volume(volume("other", "3Gi"))
	s.is("large Bound a", "other Bound b", "small Available", "a Bound large", "b Bound other")
	s.delete("a")
	s.is("large Released a", "other Bound b", "small Available", "b Bound other")
	// A namesake does not get the data of the one before.
	s.claim("a", claimOfClass("slow", "2Gi"))
	s.is("large Released a", "other Bound b", "small Available", "a Pending", "b Bound other")
	if err := s.Client.CoreV1().PersistentVolumes().Delete(context.Background(), "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.is("large Released a", "small Available", "a Pending", "b Lost other")
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pv_collector_unbound_pv_count" && (len(f.Metric) != 1 || f.Metric[0].GetGauge().GetValue() != 2 || f.Metric[0].Label[0].GetValue() != "slow") {
			t.Errorf("unbound volumes: %v", f.Metric)
		}
	}
}

// TestCrash starts where a controller before it stopped after each of its writes.
func TestCrash(t *testing.T) {
	for after := range 5 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			s := newStage(t)
			ctx := context.Background()
			v, c := s.volume(volume("v", "1Gi")), s.claim("c", claimOfClass("slow", "1Gi"))
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if after > 0 {
				linked, _, err := volumehelpers.GetBindVolumeToClaim(v, c)
				must(err)
				v, err = s.Client.CoreV1().PersistentVolumes().Update(ctx, linked, metav1.UpdateOptions{})
				must(err)
			}
			if after > 1 {
				v.Status.Phase = corev1.VolumeBound
				_, err = s.Client.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{})
				must(err)
			}
			if after > 2 {
				c.Spec.VolumeName = "v"
				c.Annotations = map[string]string{volumehelpers.AnnBindCompleted: "yes", volumehelpers.AnnBoundByController: "yes"}
				c, err = s.Client.CoreV1().PersistentVolumeClaims("default").Update(ctx, c, metav1.UpdateOptions{})
				must(err)
			}
			if after > 3 {
				c.Status.Phase, c.Status.AccessModes, c.Status.Capacity = corev1.ClaimBound, v.Spec.AccessModes, v.Spec.Capacity
				_, err = s.Client.CoreV1().PersistentVolumeClaims("default").UpdateStatus(ctx, c, metav1.UpdateOptions{})
				must(err)
			}
			s.Run(t, s.ctl)
			s.is("v Bound c", "c Bound v")
			c, err = s.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "c", metav1.GetOptions{})
			must(err)
			v, err = s.Client.CoreV1().PersistentVolumes().Get(ctx, "v", metav1.GetOptions{})
			must(err)
			for _, a := range []map[string]string{c.Annotations, v.Annotations} {
				if a[volumehelpers.AnnBoundByController] != "yes" {
					t.Errorf("annotations %v", a)
				}
			}
			s.quiet()
		})
	}
}

// quiet looks at everything again and again, and fails if that writes anything.
func (s *stage) quiet() {
	s.t.Helper()
	versions := func() string {
		ctx := context.Background()
		volumes, err := s.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		claims, err := s.Client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		out := ""
		for i := range volumes.Items {
			out += volumes.Items[i].ResourceVersion + " "
			s.seen(&volumes.Items[i], func() (metav1.Object, bool) { return s.ctl.volume(volumes.Items[i].Name) })
		}
		for i := range claims.Items {
			out += claims.Items[i].ResourceVersion + " "
			s.seen(&claims.Items[i], func() (metav1.Object, bool) { return s.ctl.claim(key(&claims.Items[i])) })
		}
		return out
	}
	before := versions()
	for range 3 {
		for _, v := range s.ctl.volumes.ListKeys() {
			if err := s.ctl.reconcileVolume(context.Background(), v); err != nil {
				s.t.Error(err)
			}
		}
		for _, c := range s.ctl.claims.ListKeys() {
			if err := s.ctl.reconcileClaim(context.Background(), c); err != nil {
				s.t.Error(err)
			}
		}
	}
	if after := versions(); after != before {
		s.t.Errorf("written: %s, then %s", before, after)
	}
}

// seen waits until the controller's view of an object is the newest.
func (s *stage) seen(obj metav1.Object, view func() (metav1.Object, bool)) {
	s.t.Helper()
	controllertest.Eventually(s.t, func() error {
		if got, ok := view(); !ok || got.GetResourceVersion() != obj.GetResourceVersion() {
			return fmt.Errorf("%s is not seen at %s", obj.GetName(), obj.GetResourceVersion())
		}
		return nil
	})
}

func TestManyClaimsShareNothing(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	var last []string
	for i := range 20 {
		s.claim(fmt.Sprintf("c%02d", i), claimOfClass("slow", "1Gi"))
		s.volume(volume(fmt.Sprintf("v%02d", i), "1Gi"))
	}
	controllertest.Eventually(t, func() error {
		last = s.picture()
		users := map[string]string{}
		for _, line := range last {
			f := strings.Fields(line)
			if len(f) != 3 || f[1] != "Bound" {
				return fmt.Errorf("%q", last)
			}
			users[f[0]] = f[2]
		}
		for name, other := range users {
			if users[other] != name {
				return fmt.Errorf("%s and %s: %q", name, other, last)
			}
		}
		return nil
	})
	s.quiet()
}

// A claim that waits for its first consumer says which pod that is, once the scheduler found no node for it.
func TestConsumerWithoutNode(t *testing.T) {
	s := newStage(t)
	recorder := record.NewFakeRecorder(100)
	s.ctl.recorder = recorder
	s.Run(t, s.ctl)
	ctx := context.Background()
	if _, err := s.Client.StorageV1().StorageClasses().Create(ctx, class("slow", "a.example/b", storagev1.VolumeBindingWaitForFirstConsumer), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.claim("c", claimOfClass("slow", "1Gi"))
	told := func(want string) {
		t.Helper()
		if got := <-recorder.Events; !strings.Contains(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	told("WaitForFirstConsumer waiting for first consumer to be created before binding")
	p, err := s.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable}}
	if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	told("WaitForPodScheduled waiting for pod p to be scheduled")
}

func TestFirstConsumer(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	ctx := context.Background()
	if _, err := s.Client.StorageV1().StorageClasses().Create(ctx, class("slow", "a.example/b", storagev1.VolumeBindingWaitForFirstConsumer), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.volume(volume("v", "1Gi"))
	c := s.claim("c", claimOfClass("slow", "1Gi"))
	s.is("v Available", "c Pending")
	// What the scheduler writes when it has found a node.
	controllertest.Eventually(t, func() error {
		v, err := s.Client.CoreV1().PersistentVolumes().Get(ctx, "v", metav1.GetOptions{})
		if err != nil {
			return err
		}
		linked, _, err := volumehelpers.GetBindVolumeToClaim(v, c)
		if err != nil {
			return err
		}
		_, err = s.Client.CoreV1().PersistentVolumes().Update(ctx, linked, metav1.UpdateOptions{})
		return err
	})
	s.is("v Bound c", "c Bound v")
	// One that nobody has a volume for is handed over when a node is chosen, and not before.
	d := s.claim("d", claimOfClass("slow", "1Gi"))
	s.is("v Bound c", "c Bound v", "d Pending")
	s.quiet()
	if got, err := s.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "d", metav1.GetOptions{}); err != nil || len(got.Annotations) != 0 {
		t.Errorf("handed over: %v, %v", got.Annotations, err)
	}
	d.Annotations = map[string]string{volumehelpers.AnnSelectedNode: "n1"}
	controllertest.Eventually(t, func() error {
		fresh, err := s.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Annotations = d.Annotations
		_, err = s.Client.CoreV1().PersistentVolumeClaims("default").Update(ctx, fresh, metav1.UpdateOptions{})
		return err
	})
	controllertest.Eventually(t, func() error {
		got, err := s.Client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "d", metav1.GetOptions{})
		if err == nil && (got.Annotations[volumehelpers.AnnStorageProvisioner] != "a.example/b" || got.Annotations[volumehelpers.AnnBetaStorageProvisioner] != "a.example/b") {
			err = fmt.Errorf("annotations %v", got.Annotations)
		}
		return err
	})
}

func TestDefaultClassComesLater(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	s.claim("c", claimOfClass("", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }))
	s.volume(volume("v", "1Gi"))
	s.is("v Available", "c Pending")
	d := class("slow", "a.example/b", storagev1.VolumeBindingImmediate)
	d.Annotations = map[string]string{defaultClass: "true"}
	if _, err := s.Client.StorageV1().StorageClasses().Create(context.Background(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.is("v Bound c", "c Bound v")
}

func TestPreboundByUsers(t *testing.T) {
	s := newStage(t)
	s.Run(t, s.ctl)
	s.volume(volume("v", "5Gi", of("c", "")))
	s.volume(volume("w", "1Gi"))
	s.is("v Available c?", "w Available")
	s.claim("c", claimOfClass("slow", "1Gi"))
	s.is("v Bound c", "w Available", "c Bound v")
	s.claim("d", claimOfClass("slow", "1Gi", naming("w")))
	s.is("v Bound c", "w Bound d", "c Bound v", "d Bound w")
	// A user's link survives its claim by name only as what it is, a link to one that is gone.
	s.delete("c")
	s.is("v Released c", "w Bound d", "d Bound w")
}

// TestTwoVolumesForOneClaim lets the one go that the claim did not take.
func TestTwoVolumesForOneClaim(t *testing.T) {
	s := newStage(t)
	c := s.claim("c", claimOfClass("slow", "1Gi"))
	for _, name := range []string{"v", "w"} {
		v, _, err := volumehelpers.GetBindVolumeToClaim(volume(name, "1Gi"), c)
		if err != nil {
			t.Fatal(err)
		}
		s.volume(v)
	}
	s.Run(t, s.ctl)
	s.is("v Bound c", "w Available", "c Bound v")
	s.quiet()
}

func TestReclaim(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		s := newStage(t)
		reclaimAll(t, s)
		// Two in vain, however often they are tried, and one gone; what waits for a provisioner has not ended.
		want := []string{"volume_operation_errors_total{delete,N/A}", "volume_operation_errors_total{delete,kubernetes.io/host-path}", "volume_operation_total_seconds{delete,kubernetes.io/host-path}"}
		got := measured(t, s.reg)
		for i := range got {
			got[i], _, _ = strings.Cut(got[i], "=")
		}
		if !slices.Equal(got, want) {
			t.Errorf("measured %q, want %q", got, want)
		}
	})
	// A conflict says that somebody else wrote. Whatever it was about, things come to the same end.
	t.Run("conflicts", func(t *testing.T) {
		var conflicts controllertest.Conflicts
		reclaimAll(t, newStageThrough(t, func(e *controllertest.Env) kubernetes.Interface { return e.Through(t, conflicts.Refuse) }))
		refused := conflicts.Refused()
		for _, want := range []string{
			"PUT /api/v1/persistentvolumes/e-recycle", "PUT /api/v1/persistentvolumes/e-recycle/status", "DELETE /api/v1/persistentvolumes/b-host",
			"POST /api/v1/namespaces/default/pods", "DELETE /api/v1/namespaces/default/pods/recycler-for-e-recycle", "PUT /api/v1/namespaces/default/persistentvolumeclaims/a",
		} {
			if !slices.Contains(refused, want) {
				t.Errorf("%s was not tried, but %q", want, refused)
			}
		}
	})
}

func reclaimAll(t *testing.T, s *stage) {
	t.Helper()
	s.Run(t, s.ctl)
	ctx := context.Background()
	policy := func(p corev1.PersistentVolumeReclaimPolicy) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
	}
	dir, err := os.MkdirTemp("/tmp", "celox-reclaim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	host := func(path string) func(*corev1.PersistentVolume) {
		return func(v *corev1.PersistentVolume) {
			v.Spec.Local, v.Spec.HostPath = nil, &corev1.HostPathVolumeSource{Path: path}
		}
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.volume(volume("a-local", "1Gi", policy(corev1.PersistentVolumeReclaimDelete), of("a", "")))
	s.volume(volume("b-host", "1Gi", policy(corev1.PersistentVolumeReclaimDelete), of("b", ""), host(data)))
	s.volume(volume("c-host", "1Gi", policy(corev1.PersistentVolumeReclaimDelete), of("c", ""), host("/srv/data")))
	s.volume(volume("d-csi", "1Gi", policy(corev1.PersistentVolumeReclaimDelete), of("d", ""), func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{volumehelpers.AnnDynamicallyProvisioned: "a.example"}
	}))
	s.volume(volume("e-recycle", "1Gi", policy(corev1.PersistentVolumeReclaimRecycle), of("e", ""), host("/srv/data")))
	s.volume(volume("f-recycle", "1Gi", policy(corev1.PersistentVolumeReclaimRecycle), of("f", "")))
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		s.claim(name, claimOfClass("slow", "1Gi"))
	}
	s.is("a-local Bound a", "b-host Bound b", "c-host Bound c", "d-csi Bound d", "e-recycle Bound e", "f-recycle Bound f",
		"a Bound a-local", "b Bound b-host", "c Bound c-host", "d Bound d-csi", "e Bound e-recycle", "f Bound f-recycle")
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		s.delete(name)
	}
	s.is("a-local Failed a", "c-host Failed c", "d-csi Released d", "e-recycle Released e", "f-recycle Failed f")
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("the data is still there: %v", err)
	}
	for name, want := range map[string]string{
		"a-local":   `error getting deleter volume plugin for volume "a-local": no volume plugin matched`,
		"c-host":    "host_path deleter only supports /tmp/.+ but received provided /srv/data",
		"f-recycle": "No recycler plugin found for the volume!",
	} {
		v, err := s.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
		if err != nil || v.Status.Message != want {
			t.Errorf("%s: %q, %v", name, v.Status.Message, err)
		}
	}
	// The recycler ends well, and the volume is as new, its link by name included: that was a user's.
	controllertest.Eventually(t, func() error {
		p, err := s.Client.CoreV1().Pods("default").Get(ctx, "recycler-for-e-recycle", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Spec.Volumes[0].HostPath.Path != "/srv/data" || p.Spec.Containers[0].VolumeMounts[0].MountPath != "/scrub" {
			t.Errorf("recycler %+v", p.Spec)
		}
		p.Status.Phase = corev1.PodSucceeded
		_, err = s.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{})
		return err
	})
	s.is("a-local Failed a", "c-host Failed c", "d-csi Released d", "e-recycle Available e?", "f-recycle Failed f")
	controllertest.Eventually(t, func() error {
		if _, err := s.Client.CoreV1().Pods("default").Get(ctx, "recycler-for-e-recycle", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the recycler is still there: %v", err)
		}
		return nil
	})
}

func TestRemoveHostPath(t *testing.T) {
	for _, path := range []string{"/", "/etc", "/tmp", "/tmp/", "/tmp/../etc", "relative"} {
		if err := removeHostPath(path); err == nil || !strings.Contains(err.Error(), "host_path deleter only supports /tmp/.+") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func BenchmarkBestMatch(b *testing.B) {
	var volumes []*corev1.PersistentVolume
	for i := range 1000 {
		volumes = append(volumes, volume(fmt.Sprint("v", i), fmt.Sprintf("%dGi", 1+i%50)))
	}
	c := claimOfClass("slow", "20Gi")
	b.ReportAllocs()
	for b.Loop() {
		if v, err := bestMatch(c, volumes, false); err != nil || v == nil {
			b.Fatal(err)
		}
	}
}
