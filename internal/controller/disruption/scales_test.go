package disruption

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller/controllertest"
)

// kinds has a scale for each object of the kinds that there are; those that are nil have none.
type kinds map[string]*autoscalingv1.Scale

func (k kinds) Scale(_ context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error) {
	s, ok := k[target.Kind]
	switch {
	case target.Kind == "Broken":
		return nil, errors.New("broken")
	case !ok:
		return nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "example.com", Kind: target.Kind}}
	case s == nil || target.Name != s.Name || namespace != "ns":
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: "example.com", Resource: "things"}, target.Name)
	}
	return s, nil
}

// HasScale says that kinds with a nil have none.
func (k kinds) HasScale(_ context.Context, kind schema.GroupKind) (schema.GroupResource, bool, error) {
	s, ok := k[kind.Kind]
	if !ok {
		return schema.GroupResource{}, false, &meta.NoKindMatchError{GroupKind: kind}
	}
	return schema.GroupResource{Group: "example.com", Resource: "things"}, s != nil, nil
}

// Kinds that are not built in may appear at any time.
func TestScalesOfOthers(t *testing.T) {
	others := kinds{"Plain": nil}
	w := NewWorkloads(informers.New(fake.NewClientset()), others)
	ask := func(kind, name string, uid types.UID) (string, int32, bool, error) {
		return w.Expected(t.Context(), "ns", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: kind, Name: name, UID: uid})
	}
	unknown := func(kind, name string, uid types.UID) {
		t.Helper()
		if id, n, known, err := ask(kind, name, uid); known || err != nil {
			t.Errorf("%s %s: %q %d %t %v", kind, name, id, n, known, err)
		}
	}
	fails := func(kind, want string) {
		t.Helper()
		if _, _, known, err := ask(kind, "a", "1"); known || err == nil || err.Error() != want {
			t.Errorf("%s: %t %v, want %s", kind, known, err, want)
		}
	}
	fails("Plain", "things.example.com does not implement the scale subresource")
	fails("Thing", `no matches for kind "Thing" in version "example.com/v1"`)
	others["Thing"] = &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}, Spec: autoscalingv1.ScaleSpec{Replicas: 7}}
	if id, n, known, err := ask("Thing", "a", "1"); id != "1" || n != 7 || !known || err != nil {
		t.Errorf("a kind that came later: %q %d %t %v", id, n, known, err)
	}
	unknown("Thing", "b", "2")
	unknown("Thing", "a", "2") // another one of the name
	if _, _, _, err := ask("Broken", "a", "1"); err == nil {
		t.Error("an error is not told")
	}
	if _, _, known, err := (NewWorkloads(informers.New(fake.NewClientset()), nil)).Expected(t.Context(), "ns", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing"}); known || err != nil {
		t.Errorf("without others: %t %v", known, err)
	}
}

// TestScaleOfReplicaSet: a replica set has the scale of its deployment, or its own if that is gone; one that the cache lacks is asked for.
func TestScaleOfReplicaSet(t *testing.T) {
	of := func(kind, name, uid string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(uid), Controller: ptr.To(true)}}
	}
	set := func(name string, n int32, owners []metav1.OwnerReference) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), OwnerReferences: owners}, Spec: appsv1.ReplicaSetSpec{Replicas: &n}}
	}
	f := informers.New(fake.NewClientset(
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "d"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(9))}},
		set("of-it", 4, of("Deployment", "d", "d")), set("of-an-older", 3, of("Deployment", "d", "old")), set("of-other", 2, of("Rollout", "d", "d")),
	))
	later := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "later", UID: "later"}, Spec: autoscalingv1.ScaleSpec{Replicas: 6}}
	w := NewWorkloads(f, kinds{"ReplicaSet": later})
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	f.WaitForCacheSync(ctx)
	defer f.Shutdown()
	defer cancel()
	for _, tt := range []struct {
		name, uid, id string
		n             int32
		known         bool
	}{
		{"of-it", "of-it", "d", 9, true},
		{"of-an-older", "of-an-older", "of-an-older", 3, true},
		{"of-other", "of-other", "of-other", 2, true},
		{"of-it", "another", "", 0, false},
		{"later", "later", "later", 6, true},
		{"gone", "gone", "", 0, false},
	} {
		t.Run(tt.name+" "+tt.uid, func(t *testing.T) {
			id, n, known, err := w.Expected(ctx, "ns", metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: tt.name, UID: types.UID(tt.uid)})
			if id != tt.id || n != tt.n || known != tt.known || err != nil {
				t.Errorf("%q %d %t %v", id, n, known, err)
			}
		})
	}
}

// What trying again doesn't change is looked at when something changes: the pod that comes, and the budget's own status. What may pass is tried again.
func TestPodsWithoutScale(t *testing.T) {
	for kind, again := range map[string]bool{"Plain": false, "Unknown": true, "Broken": true} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, ctx := controllertest.Start(t), context.Background()
				recorder := record.NewFakeRecorder(1 << 10)
				ctl, err := New(e.Client, e.Informers, NewWorkloads(e.Informers, kinds{"Plain": nil}), recorder, clock.RealClock{}, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				e.Run(t, ctl)
				if _, err := e.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: app, OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: kind, Name: "a", UID: "1", Controller: ptr.To(true)}}},
					Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				budgets := e.Client.PolicyV1().PodDisruptionBudgets("default")
				if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
					MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: app}}}, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour) // of the bubble: however often it would try again, it has
				synctest.Wait()
				b, err := budgets.Get(ctx, "b", metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if m := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition); m == nil || m.Reason != policyv1.SyncFailedReason {
					t.Errorf("condition %+v", m)
				}
				if n := len(recorder.Events); n < 1 || (n > 2) != again {
					t.Errorf("%d events, tried again: want %t", n, again)
				}
			})
		})
	}
}
