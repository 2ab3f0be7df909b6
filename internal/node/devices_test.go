package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	healthpb "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/test/dradriver"
)

// TestHealthOfDevices: what a driver says of a pod's device comes into the pod's status, and stays there when the pod is over.
func TestHealthOfDevices(t *testing.T) {
	dir, err := os.MkdirTemp("", "dra") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	const driver = "toys.example.com"
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "toy", UID: "toy"}}
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: driver, Pool: testNode, Device: "toy-0"},
	}}}
	claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "uid-p"}}
	r := newRig(t, claim)
	r.adjust = func(c *Config) { c.PluginDir = filepath.Join(dir, "reg") }
	r.follow()
	r.startReal()
	defer func() { r.stop() }()
	d, err := dradriver.Start(dradriver.Config{
		Name: driver, Registry: filepath.Join(dir, "reg"), Dir: filepath.Join(dir, "own"), CDI: filepath.Join(dir, "cdi"),
		Versions: []string{drapb.DRAPluginService, healthpb.DRAResourceHealthService},
		Claim: func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
			return r.client.ResourceV1().ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-d.Told():
	case <-time.After(time.Minute):
		t.Fatal("nobody asked the driver")
	}
	tell := func(health healthpb.HealthStatus, message string) {
		d.Tell(dradriver.Device(testNode, "toy-0", health, 3600, message))
	}
	tell(healthpb.HealthStatus_HEALTHY, "")
	pod := testPod("p", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: &claim.Name}}
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "d"}}
	})
	if _, err := r.client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	comes := func(phase corev1.PodPhase, want string) {
		t.Helper()
		r.comes("pod p", func() string {
			s := r.get("p").Status
			got := string(s.Phase) + " "
			for _, c := range s.ContainerStatuses {
				for _, one := range c.AllocatedResourcesStatus {
					for _, h := range one.Resources {
						got += string(one.Name) + " " + string(h.ResourceID) + " " + string(h.Health)
						if h.Message != nil {
							got += ": " + *h.Message
						}
					}
				}
			}
			return got
		}, string(phase)+" "+want)
	}
	const id = "claim:d toys.example.com/toy=toy "
	comes(corev1.PodRunning, id+"Healthy")
	tell(healthpb.HealthStatus_UNHEALTHY, "an arm is off")
	comes(corev1.PodRunning, id+"Unhealthy: an arm is off")
	r.runtime.Finish(r.runtime.Container("p", "c"), fakecri.Exit{Code: 1})
	comes(corev1.PodFailed, id+"Unhealthy: an arm is off")
	for end := time.Now().Add(time.Minute); len(d.Prepared()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the claim isn't given back")
		}
	}
	tell(healthpb.HealthStatus_HEALTHY, "")
	comes(corev1.PodFailed, id+"Unhealthy: an arm is off")
}
