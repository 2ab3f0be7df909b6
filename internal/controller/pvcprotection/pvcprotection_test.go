package pvcprotection

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClaim() *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
}

func newPod(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}},
	}}
}

func TestDecide(t *testing.T) {
	now := metav1.NewTime(time.Unix(1000, 0))
	going := func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp, c.Finalizers = &now, []string{finalizer} }
	ephemeral := func(p *corev1.Pod) {
		p.UID = "u"
		p.Name, p.Spec.Volumes[0] = "c", corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}
	}
	tests := []struct {
		name  string
		claim func(*corev1.PersistentVolumeClaim)
		pod   func(*corev1.Pod)
		node  string
		want  string
	}{
		{"new", func(*corev1.PersistentVolumeClaim) {}, nil, "", "protect True NoPodsUsingPVC"},
		{"not bound", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending }, nil, "", "protect "},
		{"said for another reason", func(c *corev1.PersistentVolumeClaim) {
			c.Finalizers = []string{finalizer}
			setUnused(c, &metav1.Condition{Status: metav1.ConditionTrue, Reason: "Other"})
		}, nil, "", ""},
		{"known", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = []string{finalizer} }, nil, "", "True NoPodsUsingPVC"},
		{"said already", func(c *corev1.PersistentVolumeClaim) {
			c.Finalizers = []string{finalizer}
			setUnused(c, &metav1.Condition{Status: metav1.ConditionTrue, Reason: "NoPodsUsingPVC"})
		}, nil, "", ""},
		{"a pod without a node uses it", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = []string{finalizer} }, func(*corev1.Pod) {}, "", "False PodUsingPVC"},
		{"a pod that ended does not", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = []string{finalizer} }, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "n", "True NoPodsUsingPVC"},
		{"going", going, nil, "", "release"},
		{"going, held", going, func(*corev1.Pod) {}, "n", ""},
		{"going, held by one that ended", going, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "n", ""},
		{"going, a pod without a node", going, func(*corev1.Pod) {}, "", "release"},
		{"going, somebody else's ephemeral volume", func(c *corev1.PersistentVolumeClaim) { going(c); c.Name = "c-v" }, ephemeral, "n", "release"},
		{"going, ephemeral", func(c *corev1.PersistentVolumeClaim) {
			going(c)
			c.Name, c.OwnerReferences = "c-v", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "c", UID: "u", Controller: ptr.To(true)}}
		}, ephemeral, "n", ""},
		{"going, ephemeral of a pod that is shut down", func(c *corev1.PersistentVolumeClaim) {
			going(c)
			c.Name, c.OwnerReferences = "c-v", []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "c", UID: "u", Controller: ptr.To(true)}}
		}, func(p *corev1.Pod) {
			ephemeral(p)
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, ptr.To[int64](0)
		}, "n", "release"},
		{"not ours", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp, c.Finalizers = &now, []string{"other"} }, nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClaim()
			tt.claim(c)
			var pods []*corev1.Pod
			if tt.pod != nil {
				p := newPod(tt.node)
				tt.pod(p)
				pods = append(pods, p)
			}
			d := decide(c, pods, now)
			got := ""
			if d.protect {
				got += "protect "
			}
			if d.release {
				got += "release"
			}
			if d.unused != nil {
				got += fmt.Sprintf("%s %s", d.unused.Status, d.unused.Reason)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestClaimOutlivesItsPod(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(e.Client, e.Informers, clock.RealClock{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	claims, pods := e.Client.CoreV1().PersistentVolumeClaims("default"), e.Client.CoreV1().Pods("default")
	claim, err := claims.Create(ctx, newClaim(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bound, err := json.Marshal(map[string]any{"status": map[string]any{"phase": corev1.ClaimBound}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claims.Patch(ctx, claim.Name, types.MergePatchType, bound, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	unused := func(status corev1.ConditionStatus) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			c, err := claims.Get(ctx, "c", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if says := map[corev1.ConditionStatus]string{corev1.ConditionTrue: "No pods are currently referencing this PVC", corev1.ConditionFalse: "A pod is currently referencing this PVC"}; len(c.Status.Conditions) == 1 && c.Status.Conditions[0].Message != says[c.Status.Conditions[0].Status] {
				t.Errorf("message %q", c.Status.Conditions[0].Message)
			}
			if len(c.Finalizers) != 1 || len(c.Status.Conditions) != 1 || c.Status.Conditions[0].Status != status {
				return fmt.Errorf("%v, %+v", c.Finalizers, c.Status.Conditions)
			}
			return nil
		})
	}
	unused(corev1.ConditionTrue)
	if _, err := pods.Create(ctx, newPod("n"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	unused(corev1.ConditionFalse)
	if err := claims.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { // the cache has seen the deletion, and so can the controller
		c, err := ctl.claims.PersistentVolumeClaims("default").Get("c")
		if err == nil && c.DeletionTimestamp == nil {
			err = fmt.Errorf("not deleted yet")
		}
		return err
	})
	if err := ctl.Reconcile(ctx, "default/c"); err != nil {
		t.Error(err)
	}
	unused(corev1.ConditionFalse)
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		if _, err := claims.Get(ctx, "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the claim is still there: %v", err)
		}
		return nil
	})
}
