package quota_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/quota"
)

func amounts(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i+1 < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func show(l corev1.ResourceList) string {
	var out []string
	for k, v := range l {
		out = append(out, string(k)+"="+v.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestUsage(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "2")}}},
			Containers: []corev1.Container{
				{Resources: corev1.ResourceRequirements{Requests: amounts("cpu", "1", "example.com/gpu", "1"), Limits: amounts("memory", "1Gi", "example.com/gpu", "1")}},
				{Resources: corev1.ResourceRequirements{Requests: amounts("memory", "1Mi", "hugepages-2Mi", "4Mi")}}},
		}}
		if change != nil {
			change(p)
		}
		return p
	}
	const alive = "count/pods=1 cpu=2 hugepages-2Mi=4Mi limits.memory=1Gi memory=1Mi pods=1 requests.cpu=2 requests.example.com/gpu=1 requests.hugepages-2Mi=4Mi requests.memory=1Mi"
	deleted := func(at time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.NewTime(now.Add(at))), new(int64(30))
		}
	}
	claim := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
		{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gpu", Count: 1}, {DeviceClassName: "gpu", Count: 3}, {DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeAll}}},
	}}}}
	for _, tt := range []struct {
		name, resource string
		obj            runtime.Object
		want           string
	}{
		{"a pod", "pods", pod(nil), alive},
		{"a pod that ended", "pods", pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), "count/pods=1"},
		{"a pod that is ending", "pods", pod(deleted(0)), alive},
		{"a pod whose node is silent", "pods", pod(deleted(-time.Minute)), "count/pods=1"},
		{"a claim of a class", "persistentvolumeclaims", &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("gold"), Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "1Gi")}}},
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi"},
		{"a load balancer", "services", &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: make([]corev1.ServicePort, 2)}},
			"count/services=1 services.loadbalancers=1 services.nodeports=2 services=1"},
		{"devices", "resourceclaims.resource.k8s.io", claim, "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=32"},
		{"metadata of a secret", "secrets", &metav1.PartialObjectMetadata{}, "count/secrets=1 secrets=1"},
		{"a custom object", "things.example.com", &metav1.PartialObjectMetadata{}, "count/things.example.com=1"},
	} {
		gr := schema.ParseGroupResource(tt.resource)
		got := quota.Usage(gr, tt.obj, now)
		if show(got) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, show(got), tt.want)
		}
		// Every name that an object counts for leads back to its resource.
		for name := range got {
			if r, ok := quota.Resource(name); !ok || r != gr {
				t.Errorf("%s: %s is about %v", tt.name, name, r)
			}
		}
	}
	for _, name := range []corev1.ResourceName{"", "count/", "foo", "services.others"} {
		if r, ok := quota.Resource(name); ok {
			t.Errorf("%q is about %v", name, r)
		}
	}
}
