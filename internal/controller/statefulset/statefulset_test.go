package statefulset

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type stage struct {
	*controllertest.Env
	t *testing.T
}

func newStage(t *testing.T) *stage {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	return &stage{e, t}
}

func (s *stage) create(n int32, change func(*appsv1.StatefulSetSpec)) {
	s.t.Helper()
	l := map[string]string{"app": "s"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &n, ServiceName: "svc", Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)), Containers: []corev1.Container{{Name: "c", Image: "one"}}}},
	}}
	if change != nil {
		change(&set.Spec)
	}
	if _, err := s.Client.AppsV1().StatefulSets("default").Create(context.Background(), set, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) patch(patch string) {
	s.t.Helper()
	if _, err := s.Client.AppsV1().StatefulSets("default").Patch(context.Background(), "s", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// seen is the pods as "s-0:one+ s-1:two", with a plus behind those that are ready.
func (s *stage) seen() (string, []corev1.Pod) {
	list, err := s.Client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var parts []string
	for _, p := range list.Items {
		part := p.Name + ":" + p.Spec.Containers[0].Image
		if p.Status.Phase == corev1.PodRunning {
			part += "+"
		}
		parts = append(parts, part)
	}
	slices.Sort(parts)
	return strings.Join(parts, " "), list.Items
}

// until makes pods ready, as ready says, until they look as wanted and the status agrees.
func (s *stage) until(want string, ready func(*corev1.Pod) bool) *appsv1.StatefulSet {
	s.t.Helper()
	var set *appsv1.StatefulSet
	controllertest.Eventually(s.t, func() error {
		got, pods := s.seen()
		var err error
		if set, err = s.Client.AppsV1().StatefulSets("default").Get(context.Background(), "s", metav1.GetOptions{}); err != nil {
			return err
		}
		if got == want && agrees(set, pods) {
			return nil
		}
		for _, p := range pods {
			if p.Status.Phase == corev1.PodPending && ready(&p) {
				p.Status.Phase = corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
				_, _ = s.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), &p, metav1.UpdateOptions{}) // it may be gone
			}
		}
		return fmt.Errorf("pods %s, status %+v; want %s", got, set.Status, want)
	})
	return set
}

// agrees reports whether the status counts exactly these pods; until the last change of a pod has
// been reconciled it counts those from before.
func agrees(set *appsv1.StatefulSet, pods []corev1.Pod) bool {
	var ready, current, updated int32
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning {
			ready++
		}
		hash := p.Labels[appsv1.StatefulSetRevisionLabel]
		if hash == set.Status.CurrentRevision {
			current++
		}
		if hash == set.Status.UpdateRevision {
			updated++
		}
	}
	s := set.Status
	return s.ObservedGeneration == set.Generation && int(s.Replicas) == len(pods) && s.ReadyReplicas == ready &&
		s.AvailableReplicas == ready && s.CurrentReplicas == current && s.UpdatedReplicas == updated
}

func always(*corev1.Pod) bool { return true }
func never(*corev1.Pod) bool  { return false }

func TestInOrder(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(3, nil)
	s.until("s-0:one", never) // the second waits for the first
	s.until("s-0:one+ s-1:one", func(p *corev1.Pod) bool { return p.Name == "s-0" })
	set := s.until("s-0:one+ s-1:one+ s-2:one+", always)
	if set.Status.CurrentReplicas != 3 || set.Status.CurrentRevision != set.Status.UpdateRevision || set.Status.AvailableReplicas != 3 {
		t.Errorf("status %+v", set.Status)
	}
	_, pods := s.seen()
	for i, p := range pods {
		if p.Spec.Hostname != p.Name || p.Spec.Subdomain != "svc" || p.Labels[appsv1.PodIndexLabel] != fmt.Sprint(i) || p.Labels[appsv1.StatefulSetPodNameLabel] != p.Name {
			t.Errorf("identity of %s: %+v, %q.%q", p.Name, p.Labels, p.Spec.Hostname, p.Spec.Subdomain)
		}
	}
	s.patch(`{"spec":{"replicas":1}}`)
	s.until("s-0:one+", never)
	// A failed pod is made again under its name.
	_, pods = s.seen()
	pods[0].Status.Phase = corev1.PodFailed
	if _, err := s.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), &pods[0], metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, now := s.seen(); len(now) != 1 || now[0].UID == pods[0].UID {
			return fmt.Errorf("not made again")
		}
		return nil
	})
	s.until("s-0:one+", always)
}

func TestParallelFromAnOrdinal(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(3, func(spec *appsv1.StatefulSetSpec) {
		spec.PodManagementPolicy = appsv1.ParallelPodManagement
		spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	})
	s.until("s-5:one s-6:one s-7:one", never)
	s.until("s-5:one+ s-6:one+ s-7:one+", always)
	s.patch(`{"spec":{"replicas":0}}`)
	s.until("", never)
}

const two = `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"two"}]}}}}`

func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(3, nil)
	s.until("s-0:one+ s-1:one+ s-2:one+", always)
	s.patch(two)
	s.until("s-0:one+ s-1:one+ s-2:two", never) // the last first, and no other before it is well
	set := s.until("s-0:two+ s-1:two+ s-2:two+", always)
	controllertest.Eventually(t, func() error {
		set, _ = s.Client.AppsV1().StatefulSets("default").Get(context.Background(), "s", metav1.GetOptions{})
		if set.Status.CurrentRevision != set.Status.UpdateRevision || set.Status.CurrentReplicas != 3 {
			return fmt.Errorf("the rollout is not over: %+v", set.Status)
		}
		return nil
	})
}

func TestPartition(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(3, func(spec *appsv1.StatefulSetSpec) {
		spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(int32(2))}
	})
	s.until("s-0:one+ s-1:one+ s-2:one+", always)
	s.patch(two)
	set := s.until("s-0:one+ s-1:one+ s-2:two+", always)
	if set.Status.UpdatedReplicas != 1 || set.Status.CurrentReplicas != 2 || set.Status.CurrentRevision == set.Status.UpdateRevision {
		t.Errorf("status %+v", set.Status)
	}
	// What dies below the partition comes back as it was.
	if err := s.Client.CoreV1().Pods("default").Delete(context.Background(), "s-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until("s-0:one+ s-1:one+ s-2:two+", always)
	s.patch(`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	s.until("s-0:two+ s-1:two+ s-2:two+", always)
}

// aRound is a look at pods by a controller whose server is a fake one. Revision a is the current one, b the new one.
func aRound(t *testing.T, set *appsv1.StatefulSet, m *controller.Metrics, pods ...*corev1.Pod) (*round, *fake.Clientset, *record.FakeRecorder) {
	t.Helper()
	client, told := fake.NewClientset(), record.NewFakeRecorder(100)
	for _, p := range pods {
		if err := client.Tracker().Add(p); err != nil {
			t.Fatal(err)
		}
	}
	ctl, err := New(client, informers.New(client), told, clock.RealClock{}, nil, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // its queue has a goroutine
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := ctl.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	revisionNamed := func(name string) *appsv1.ControllerRevision {
		return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: runtime.RawExtension{Raw: []byte(`{}`)}}
	}
	r, err := newRound(ctl, "default/s", set, pods, revisionNamed("a"), revisionNamed("b"))
	if err != nil {
		t.Fatal(err)
	}
	return r, client, told
}

func setOf(n int32, u appsv1.StatefulSetUpdateStrategy) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "s"}, Spec: appsv1.StatefulSetSpec{Replicas: &n, PodManagementPolicy: appsv1.ParallelPodManagement, UpdateStrategy: u}}
}

// Where all pods are refused few are tried; a name that is taken does not stop those after it.
func TestParallelStartsSlowly(t *testing.T) {
	for _, c := range []struct {
		name    string
		refusal error
		want    int
	}{
		{"a quota", apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("quota")), 1},
		{"a name that is taken", apierrors.NewAlreadyExists(corev1.Resource("pods"), "s-0"), 20},
		{"nobody", nil, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, client, told := aRound(t, setOf(20, appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType}), nil)
			tried := 0
			client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				tried++
				return c.refusal != nil, nil, c.refusal
			})
			wait, err := r.fillAll(t.Context())
			if wait || (err != nil) != (c.refusal != nil) || tried != c.want {
				t.Errorf("%v %v, %d tries", wait, err, tried)
			}
			want := map[string]string{"a quota": `Warning FailedCreate Create Pod s-0 in StatefulSet s failed error: pods is forbidden: quota`, "nobody": "Normal SuccessfulCreate Create Pod s-0 in StatefulSet s successful"}[c.name]
			if want != "" {
				if got := <-told.Events; got != want {
					t.Errorf("event %q, want %q", got, want)
				}
			} else if n := len(told.Events); n != 0 {
				t.Errorf("%d events", n)
			}
		})
	}
}

func TestWhichTemplate(t *testing.T) {
	rolling := appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType}
	parted := *rolling.DeepCopy()
	parted.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(int32(2))}
	whole := *rolling.DeepCopy()
	whole.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(int32(0))}
	for _, c := range []struct {
		name string
		u    appsv1.StatefulSetUpdateStrategy
		want string // for ordinals 0 to 3; true is the old one
	}{
		{"below the partition", parted, "[true true false false]"},
		{"no partition", whole, "[false false false false]"},
		{"nothing said: those that the rollout has not come to", rolling, "[true true true false]"},
		{"on deletion", appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}, "[false false false false]"},
	} {
		set := setOf(4, c.u)
		set.Status.CurrentReplicas = 3
		r, _, _ := aRound(t, set, nil)
		if got := fmt.Sprint([]bool{r.isOld(0), r.isOld(1), r.isOld(2), r.isOld(3)}); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestEndOfARollout(t *testing.T) {
	pod := func(i int, revision string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", i), Namespace: "default", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	}
	for _, c := range []struct {
		name string
		pods []*corev1.Pod
		want string
	}{
		{"all new", []*corev1.Pod{pod(0, "b"), pod(1, "b")}, "b"},
		{"one old", []*corev1.Pod{pod(0, "a"), pod(1, "b")}, "a"},
		{"one too many", []*corev1.Pod{pod(0, "b"), pod(1, "b"), pod(2, "a")}, "a"},
	} {
		// By hand as well as by itself.
		r, _, _ := aRound(t, setOf(2, appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}), nil, c.pods...)
		r.conclude()
		if r.status.CurrentRevision != c.want {
			t.Errorf("%s: current revision %s, want %s", c.name, r.status.CurrentRevision, c.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	set := setOf(4, appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr.To(intstr.FromString("50%"))}})
	r, _, _ := aRound(t, set, controller.NewMetrics(registry))
	if err := r.roll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.c.metrics.showLimit(set)
	shown := func() (out []string) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if strings.HasPrefix(f.GetName(), "statefulset_controller_") {
				out = append(out, fmt.Sprint(f.GetName(), " ", f.GetMetric()[0].GetGauge().GetValue(), " ", len(f.GetMetric()[0].GetLabel())))
			}
		}
		return out
	}
	if got, want := shown(), []string{"statefulset_controller_statefulset_max_unavailable 2 3", "statefulset_controller_statefulset_unavailable_replicas 4 3"}; !slices.Equal(got, want) {
		t.Errorf("shown %q, want %q", got, want)
	}
	r.c.metrics.forget("default", "s")
	if got := shown(); len(got) != 0 {
		t.Errorf("shown of a set that is gone: %q", got)
	}
}

func TestMaxUnavailable(t *testing.T) {
	pod := func(i int, revision string, up bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", i), Namespace: "default", UID: types.UID(fmt.Sprint(i)), Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}}}
		p.Status.Phase = corev1.PodRunning
		if up {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	tests := []struct {
		name   string
		pods   []*corev1.Pod
		budget intstr.IntOrString
		order  appsv1.PodManagementPolicyType
		want   []string
	}{
		{"two of four", []*corev1.Pod{pod(0, "a", true), pod(1, "a", true), pod(2, "a", true), pod(3, "a", true)}, intstr.FromInt32(2), appsv1.ParallelPodManagement, []string{"s-2", "s-3"}},
		{"half", []*corev1.Pod{pod(0, "a", true), pod(1, "a", true), pod(2, "a", true), pod(3, "a", true)}, intstr.FromString("50%"), appsv1.OrderedReadyPodManagement, []string{"s-2", "s-3"}},
		{"one is down already", []*corev1.Pod{pod(0, "a", true), pod(1, "a", true), pod(2, "a", true), pod(3, "b", false)}, intstr.FromInt32(2), appsv1.ParallelPodManagement, []string{"s-2"}},
		{"all are down already", []*corev1.Pod{pod(0, "a", true), pod(1, "a", true), pod(2, "b", false), pod(3, "b", false)}, intstr.FromInt32(2), appsv1.ParallelPodManagement, nil},
		{"old ones that serve nobody go first", []*corev1.Pod{pod(0, "a", true), pod(1, "a", false), pod(2, "a", true), pod(3, "b", true)}, intstr.FromInt32(1), appsv1.ParallelPodManagement, []string{"s-1"}},
		{"done", []*corev1.Pod{pod(0, "b", true), pod(1, "b", true)}, intstr.FromInt32(1), appsv1.ParallelPodManagement, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set := setOf(int32(len(tt.pods)), appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: &tt.budget}})
			set.Spec.PodManagementPolicy = tt.order
			r, client, _ := aRound(t, set, nil, tt.pods...)
			if err := r.roll(context.Background()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range client.Actions() {
				if d, ok := a.(clienttesting.DeleteAction); ok {
					got = append(got, d.GetName())
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("deleted %v, want %v", got, tt.want)
			}
		})
	}
}

func TestOnDelete(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(2, func(spec *appsv1.StatefulSetSpec) {
		spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	})
	s.until("s-0:one+ s-1:one+", always)
	s.patch(two)
	s.until("s-0:one+ s-1:one+", always)
	if err := s.Client.CoreV1().Pods("default").Delete(context.Background(), "s-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until("s-0:two+ s-1:one+", always)
}

func TestClaims(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.create(2, func(spec *appsv1.StatefulSetSpec) {
		spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}}
		spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	})
	s.until("s-0:one+ s-1:one+", always)
	_, pods := s.seen()
	if v := pods[1].Spec.Volumes; len(v) == 0 || v[0].PersistentVolumeClaim == nil || v[0].PersistentVolumeClaim.ClaimName != "data-s-1" {
		t.Errorf("volumes %+v", v)
	}
	owner := func(claim, kind string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			c, err := s.Client.CoreV1().PersistentVolumeClaims("default").Get(context.Background(), claim, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(c.OwnerReferences) != 1 || c.OwnerReferences[0].Kind != kind || c.Labels["app"] != "s" {
				return fmt.Errorf("%s: owners %+v, labels %v", claim, c.OwnerReferences, c.Labels)
			}
			return nil
		})
	}
	owner("data-s-0", "StatefulSet")
	owner("data-s-1", "StatefulSet")
	s.patch(`{"spec":{"replicas":1}}`)
	s.until("s-0:one+", always)
	owner("data-s-1", "Pod") // the garbage collector takes it with the pod
}

func TestOrdinalOf(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}}
	for name, want := range map[string]int{"web-1-0": 0, "web-1-12": 12, "web-1": -1, "web-1-": -1, "web-1-01": -1, "web-1--1": -1, "web-1-x": -1, "web-1-99999999999": -1} {
		if n, ok := ordinalOf(set, name); ok != (want >= 0) || ok && n != want {
			t.Errorf("%s: %d, %v", name, n, ok)
		}
	}
}

// A claim that somebody else controls is not the set's to give away, nor one of a namesake before; one that is about to go with the pod before is not given to
// its successor.
func TestOwnersOfClaims(t *testing.T) {
	del := appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", UID: "set"}, Spec: appsv1.StatefulSetSpec{
		PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: del, WhenScaled: del}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "s-1", UID: "pod"}}
	ref := func(apiVersion, kind, name, uid string, controls bool) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(uid), Controller: ptr.To(controls), BlockOwnerDeletion: ptr.To(controls)}
	}
	ofSet, ofPod := ref("apps/v1", "StatefulSet", "s", "set", true), ref("v1", "Pod", "s-1", "pod", true)
	oldSet, oldPod := ref("apps/v1", "StatefulSet", "s", "old", true), ref("v1", "Pod", "s-1", "old", true)
	foreign, theirs := ref("v1", "ConfigMap", "m", "m", false), ref("v1", "ConfigMap", "m", "m", true)
	for _, tt := range []struct {
		name      string
		have      []metav1.OwnerReference
		condemned bool
		want      []metav1.OwnerReference
		conflict  bool
	}{
		{"kept for the set", nil, false, []metav1.OwnerReference{ofSet}, false},
		{"condemned", []metav1.OwnerReference{ofSet}, true, []metav1.OwnerReference{ofPod}, false},
		{"wanted again", []metav1.OwnerReference{ofPod}, false, []metav1.OwnerReference{ofSet}, false},
		{"of a set before", []metav1.OwnerReference{oldSet}, false, []metav1.OwnerReference{oldSet}, true},
		{"of a pod before", []metav1.OwnerReference{oldPod}, true, []metav1.OwnerReference{oldPod}, true},
		{"owned and not controlled", []metav1.OwnerReference{ref("apps/v1", "StatefulSet", "s", "set", false)}, false, []metav1.OwnerReference{ofSet}, false},
		{"others stay", []metav1.OwnerReference{foreign}, false, []metav1.OwnerReference{foreign, ofSet}, false},
		{"another controller", []metav1.OwnerReference{theirs, ofSet}, false, []metav1.OwnerReference{theirs}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: tt.have}}
			got, conflict := ownersOf(set, claim, pod, tt.condemned)
			if !equality.Semantic.DeepEqual(got, tt.want) || conflict != tt.conflict {
				t.Errorf("got %+v, %v; want %+v, %v", got, conflict, tt.want, tt.conflict)
			}
		})
	}
	for _, tt := range []struct {
		claim corev1.PersistentVolumeClaim
		want  bool
	}{
		{corev1.PersistentVolumeClaim{}, false},
		{corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ofSet}}}, false},
		{corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{ofPod}}}, true},
		{corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, false}, // nobody's fault, and told
	} {
		if got := isLeft(&tt.claim, "s-1"); got != tt.want {
			t.Errorf("%+v is about to go: %v", tt.claim.ObjectMeta, got)
		}
	}
}

// desk is a controller that works only when it is told to.
type desk struct {
	*controllertest.Env
	t   *testing.T
	ctl *Controller
}

func newDesk(t *testing.T, refuse func(*http.Request) error) *desk {
	e := controllertest.Start(t)
	ctl, err := New(e.Through(t, refuse), e.Informers, e.Recorder, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	t.Cleanup(func() { _ = ctl.loop.Run(ended) }) // it has nothing to do but to end
	e.Run(t)
	return &desk{e, t, ctl}
}

func nothing(*http.Request) error { return nil }

// look lets the controller look at the set, with all that was written before.
func (d *desk) look() error {
	d.t.Helper()
	ctx := context.Background()
	controllertest.Eventually(d.t, func() error {
		set, err := d.Client.AppsV1().StatefulSets("default").Get(ctx, "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have, err := d.ctl.sets.StatefulSets("default").Get("s"); err != nil || have.ResourceVersion != set.ResourceVersion {
			return fmt.Errorf("the set is behind: %w", err)
		}
		pods, err := d.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		known := d.ctl.pods.Owned(set.UID, func(*corev1.Pod) bool { return true })
		if len(known) != len(pods.Items) {
			return fmt.Errorf("%d pods, %d are known", len(pods.Items), len(known))
		}
		for _, p := range known {
			if !slices.ContainsFunc(pods.Items, func(q corev1.Pod) bool { return q.ResourceVersion == p.ResourceVersion }) {
				return fmt.Errorf("%s is behind", p.Name)
			}
		}
		claims, err := d.Client.CoreV1().PersistentVolumeClaims("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, c := range claims.Items {
			if have, err := d.ctl.claims.PersistentVolumeClaims("default").Get(c.Name); err != nil || have.ResourceVersion != c.ResourceVersion {
				return fmt.Errorf("claim %s is behind: %w", c.Name, err)
			}
		}
		return nil
	})
	return d.ctl.Reconcile(ctx, "default/s")
}

// events are those that were told since the last call.
func (d *desk) events() []string {
	var all []string
	for {
		select {
		case e := <-d.Recorder.(*record.FakeRecorder).Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

// ready says whether a pod is ready.
func (d *desk) ready(pod string, is bool) {
	d.t.Helper()
	p, err := d.Client.CoreV1().Pods("default").Get(context.Background(), pod, metav1.GetOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Unix(1, 0)}}}
	if _, err := d.Client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		d.t.Fatal(err)
	}
}

// A set in order gives claims to their owners, and tells of it, only as far as its pods are available; one that is not comes to all.
func TestClaimsFollowThePolicyInOrder(t *testing.T) {
	const told = "Normal SuccessfulUpdate Update Pod s-%d in StatefulSet s successful"
	for _, tt := range []struct {
		policy appsv1.PodManagementPolicyType
		owned  []string
		events []string
	}{
		{appsv1.OrderedReadyPodManagement, []string{"data-s-0"}, []string{fmt.Sprintf(told, 0)}},
		{appsv1.ParallelPodManagement, []string{"data-s-0", "data-s-1"}, []string{fmt.Sprintf(told, 0), fmt.Sprintf(told, 1)}},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			d := newDesk(t, nothing)
			(&stage{d.Env, t}).create(2, func(set *appsv1.StatefulSetSpec) {
				set.PodManagementPolicy = tt.policy
				set.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}}
			})
			for i := range 2 {
				if err := d.look(); err != nil {
					t.Fatal(err)
				}
				d.ready(fmt.Sprintf("s-%d", i), true)
			}
			d.ready("s-1", false)
			d.events()
			(&stage{d.Env, t}).patch(`{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"}}}`)
			if err := d.look(); err != nil {
				t.Fatal(err)
			}
			claims, err := d.Client.CoreV1().PersistentVolumeClaims("default").List(context.Background(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var owned []string
			for _, c := range claims.Items {
				if len(c.OwnerReferences) > 0 {
					owned = append(owned, c.Name)
				}
			}
			if events := d.events(); !slices.Equal(owned, tt.owned) || !slices.Equal(events, tt.events) {
				t.Errorf("owned: %v, told: %q; want %v, %q", owned, events, tt.owned, tt.events)
			}
			if err := d.look(); err != nil || len(d.events()) > 0 {
				t.Errorf("told again, %v", err)
			}
		})
	}
}

// What a pod lacks of its identity is put right once it is available; a volume can't be given to it, which is told.
func TestConform(t *testing.T) {
	for _, tt := range []struct {
		name, patch string // of the set; then of the pod
		pod         string
		want        string // the beginning of the only event; none if empty
	}{
		{"nothing", `{}`, `{}`, ""},
		{"its name", `{}`, `{"metadata":{"labels":{"statefulset.kubernetes.io/pod-name":null}}}`, "Normal SuccessfulUpdate Update Pod s-0 in StatefulSet s successful"},
		{"its index", `{}`, `{"metadata":{"labels":{"apps.kubernetes.io/pod-index":"7"}}}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t, nothing)
			(&stage{d.Env, t}).create(1, nil)
			if err := d.look(); err != nil {
				t.Fatal(err)
			}
			patch := func() {
				t.Helper()
				if _, err := d.Client.CoreV1().Pods("default").Patch(context.Background(), "s-0", types.MergePatchType, []byte(tt.pod), metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			patch()
			d.events()
			if err := d.look(); err != nil || len(d.events()) > 0 {
				t.Errorf("it is not ready, and something was done: %v", err)
			}
			d.ready("s-0", true)
			if err := d.look(); err != nil {
				t.Fatal(err)
			}
			events := d.events()
			if tt.want == "" && len(events) > 0 || tt.want != "" && (len(events) != 1 || !strings.HasPrefix(events[0], tt.want)) {
				t.Errorf("told %q, want %q", events, tt.want)
			}
			p, err := d.Client.CoreV1().Pods("default").Get(context.Background(), "s-0", metav1.GetOptions{})
			if err != nil || p.Labels[appsv1.StatefulSetPodNameLabel] != "s-0" {
				t.Errorf("labels %v, %v", p.Labels, err)
			}
		})
	}
	t.Run("a volume", func(t *testing.T) {
		d := newDesk(t, nothing)
		s := &stage{d.Env, t}
		s.create(1, nil)
		if err := d.look(); err != nil {
			t.Fatal(err)
		}
		d.ready("s-0", true)
		ctx := context.Background()
		old, err := d.Client.AppsV1().StatefulSets("default").Get(ctx, "s", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		set := old.DeepCopy()
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}}
		r := &round{c: d.ctl, key: "default/s", set: set}
		p, err := d.Client.CoreV1().Pods("default").Get(ctx, "s-0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d.events()
		err = r.conform(ctx, p, 0)
		events := d.events()
		if err == nil || len(events) != 2 || !strings.HasPrefix(events[1], "Warning FailedUpdate Update Pod s-0 in StatefulSet s failed error: Pod \"s-0\" is invalid: spec: Forbidden") {
			t.Errorf("told %q, %v", events, err)
		}
	})
}

// The status counts pods that have ended as long as they are not on their way out.
func TestEndedPodsCount(t *testing.T) {
	rev := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Data: runtime.RawExtension{Raw: []byte("{}")}}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3)}}
	var all []*corev1.Pod
	for i, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodFailed, corev1.PodSucceeded} {
		all = append(all, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName(set, i), Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "one"}}, Status: corev1.PodStatus{Phase: phase}})
	}
	all[2].DeletionTimestamp = &metav1.Time{}
	r, err := newRound(&Controller{clock: clock.RealClock{}}, "default/s", set, all, rev, rev)
	if err != nil || r.status.Replicas != 3 || r.status.CurrentReplicas != 2 || r.status.UpdatedReplicas != 2 {
		t.Errorf("%+v, %v", r.status, err)
	}
}

func TestPodFor(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{
		ServiceName: "svc", VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, {ObjectMeta: metav1.ObjectMeta{Name: "y"}}},
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "own"}, {Name: "y"}}}}}}
	p := podFor(set, &set.Spec.Template, "one", 2)
	var volumes []string
	for _, v := range p.Spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	if p.Name != "s-2" || p.GenerateName != "s-" || p.Spec.Hostname != "s-2" || p.Spec.Subdomain != "svc" || !slices.Equal(volumes, []string{"x", "y", "own"}) {
		t.Errorf("%s (%s), volumes %v", p.Name, p.GenerateName, volumes)
	}
	if !isMounted(set, p, 2) || isMounted(set, p, 1) || !isLabelled(p) {
		t.Error("it is not what it was made to be")
	}
}

func TestPodEvent(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, "Create Pod s-0 in StatefulSet s successful"},
		{fmt.Errorf("failed to create PVC x: %w", apierrors.NewBadRequest("no")), "Create Pod s-0 in StatefulSet s failed error: failed to create PVC x: no"},
	} {
		if got := podEvent(set, "create", "s-0", tt.err); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// In a namespace that goes no pod is made, and none is counted.
func TestNamespaceGoes(t *testing.T) {
	d := newDesk(t, func(req *http.Request) error {
		if req.Method != http.MethodPost || !strings.HasSuffix(req.URL.Path, "/pods") {
			return nil
		}
		err := apierrors.NewForbidden(corev1.Resource("pods"), "s-0", errors.New("the namespace goes"))
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return err
	})
	(&stage{d.Env, t}).create(2, nil)
	if err := d.look(); err != nil {
		t.Fatal(err)
	}
	set, err := d.Client.AppsV1().StatefulSets("default").Get(context.Background(), "s", metav1.GetOptions{})
	if err != nil || set.Status.ObservedGeneration != 1 || set.Status.Replicas != 0 || set.Status.CurrentReplicas != 0 || set.Status.UpdatedReplicas != 0 {
		t.Errorf("status %+v, %v", set.Status, err)
	}
}

// A set that goes and leaves its dependents writes no new history in place of that it has just lost.
func TestLostHistory(t *testing.T) {
	d := newDesk(t, nothing)
	(&stage{d.Env, t}).create(1, nil)
	if err := d.look(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	revisions := d.Client.AppsV1().ControllerRevisions("default")
	list, err := revisions.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d revisions, %v", len(list.Items), err)
	}
	if err := d.Client.AppsV1().StatefulSets("default").Delete(ctx, "s", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
		t.Fatal(err)
	}
	lost, err := revisions.Patch(ctx, list.Items[0].Name, types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if have, err := d.ctl.history.Lister.ControllerRevisions("default").Get(lost.Name); err != nil || have.ResourceVersion != lost.ResourceVersion {
			return fmt.Errorf("the revision is behind: %w", err)
		}
		return nil
	})
	if err := d.look(); err != nil {
		t.Fatal(err)
	}
	list, err = revisions.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].ResourceVersion != lost.ResourceVersion {
		t.Errorf("%+v, %v", list.Items, err)
	}
}
