package ttlafterfinished

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
)

func TestJobsGoInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := func(name string, ttl *int32, how batchv1.JobConditionType) *batchv1.Job {
			j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}}
			if how != "" {
				j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			}
			return j
		}
		c := fake.NewClientset(ended("minute", ptr.To(int32(60)), batchv1.JobComplete), ended("failed", ptr.To(int32(60)), batchv1.JobFailed),
			ended("forever", nil, batchv1.JobComplete), ended("runs", ptr.To(int32(1)), ""), ended("longer", ptr.To(int32(60)), batchv1.JobComplete))
		f := informers.New(c)
		ctl, err := New(c, f, clock.RealClock{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx)
		done := make(chan error, 1)
		go func() { done <- ctl.Run(ctx) }()
		jobs := c.BatchV1().Jobs("default")
		there := func(want map[string]bool) {
			t.Helper()
			synctest.Wait()
			for name, is := range want {
				if _, err := jobs.Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) == is {
					t.Errorf("%s: there %v, want %v", name, !is, is)
				}
			}
		}
		time.Sleep(30 * time.Second)
		there(map[string]bool{"minute": true, "failed": true, "forever": true, "runs": true, "longer": true})
		if _, err := jobs.Update(ctx, ended("longer", ptr.To(int32(600)), batchv1.JobComplete), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		there(map[string]bool{"minute": false, "failed": false, "forever": true, "runs": true, "longer": true})
		time.Sleep(10 * time.Minute)
		there(map[string]bool{"forever": true, "runs": true, "longer": false})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	})
}
