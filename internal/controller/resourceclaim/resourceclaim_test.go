package resourceclaim

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClaimFromTemplateToItsEnd(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: e.Recorder, Clock: clock.RealClock{}, Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	ctx := context.Background()
	pods, claims := e.Client.CoreV1().Pods("default"), e.Client.ResourceV1().ResourceClaims("default")
	if _, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](0),
		ResourceClaims:                []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("t")}, {Name: "nic", ResourceClaimTemplateName: ptr.To("t")}},
		Containers:                    []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}, {Name: "nic"}}}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The template comes after the pod.
	request := resourcev1.DeviceRequest{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}
	if _, err := e.Client.ResourceV1().ResourceClaimTemplates("default").Create(ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var p *corev1.Pod
	controllertest.Eventually(t, func() (err error) {
		if p, err = pods.Get(ctx, "p", metav1.GetOptions{}); err == nil && len(p.Status.ResourceClaimStatuses) != 2 {
			err = fmt.Errorf("status %+v", p.Status.ResourceClaimStatuses)
		}
		return err
	})
	list, err := claims.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%d claims, %v", len(list.Items), err)
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		c, err := claims.Get(ctx, *s.ResourceClaimName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Name, "p-"+s.Name+"-") || c.Annotations[podClaimAnnotation] != s.Name || c.Labels["a"] != "b" || !metav1.IsControlledBy(c, p) {
			t.Errorf("claim %+v", c.ObjectMeta)
		}
	}
	// The scheduler allocates one and reserves it for the pod.
	name := *p.Status.ResourceClaimStatuses[0].ResourceClaimName
	controllertest.Eventually(t, func() error {
		c, err := claims.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c.Finalizers = []string{resourcev1.Finalizer}
		if c, err = claims.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
			return err
		}
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "one", Driver: "d.example", Pool: "pool", Device: "dev"}}}}
		c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: p.UID}}
		_, err = claims.UpdateStatus(ctx, c, metav1.UpdateOptions{})
		return err
	})
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		list, err := claims.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("still there: %+v", list.Items)
		}
		return err
	})
}

func TestSharedClaimIsGivenBack(t *testing.T) {
	e := controllertest.Start(t)
	ctl, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: e.Recorder, Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	claims := e.Client.ResourceV1().ResourceClaims("default")
	request := resourcev1.DeviceRequest{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}
	c, err := claims.Create(ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "shared", Finalizers: []string{resourcev1.Finalizer}},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{request}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "one", Driver: "d.example", Pool: "pool", Device: "dev"}}}}
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "gone", UID: "u"}}
	if _, err := claims.UpdateStatus(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	controllertest.Eventually(t, func() error {
		c, err := claims.Get(ctx, "shared", metav1.GetOptions{})
		if err == nil && (c.Status.Allocation != nil || len(c.Status.ReservedFor) > 0 || len(c.Finalizers) > 0) {
			err = fmt.Errorf("%v, %+v", c.Finalizers, c.Status)
		}
		return err
	})
	if err := claims.Delete(ctx, "shared", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}
