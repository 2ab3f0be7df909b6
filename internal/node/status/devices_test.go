package status

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/celox/celox/internal/node/observed"
)

// TestPluggedDevices: those of device plugins are shown after those of claims, and each stay when no more is known of them.
func TestPluggedDevices(t *testing.T) {
	status := func(name corev1.ResourceName, health corev1.ResourceHealthStatus) []corev1.ResourceStatus {
		return []corev1.ResourceStatus{{Name: name, Resources: []corev1.ResourceHealth{{ResourceID: "x", Health: health}}}}
	}
	const claim, toy = "claim:d", "example.com/toy"
	both := slices.Concat(status(claim, "Healthy"), status(toy, "Unhealthy"))
	for name, tt := range map[string]struct {
		claims, plugged map[string][]corev1.ResourceStatus
		old             []corev1.ResourceStatus
		want            string
	}{
		"both":             {map[string][]corev1.ResourceStatus{"a": status(claim, "Healthy")}, map[string][]corev1.ResourceStatus{"a": status(toy, "Unhealthy")}, nil, "claim:d Healthy, example.com/toy Unhealthy, "},
		"no more known":    {nil, nil, both, "claim:d Healthy, example.com/toy Unhealthy, "},
		"another health":   {nil, map[string][]corev1.ResourceStatus{"a": status(toy, "Healthy")}, both, "claim:d Healthy, example.com/toy Healthy, "},
		"never asked for":  {nil, nil, status("example.com/other", "Healthy"), ""},
		"of another, none": {nil, map[string][]corev1.ResourceStatus{"b": status(toy, "Healthy")}, nil, ""},
	} {
		p := pod("Always", nil, "a", "b")
		p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "d"}}
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{toy: resource.MustParse("1")}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", AllocatedResourcesStatus: tt.old}, {Name: "b"}}
		computed := Compute(Input{
			Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0), c("b", running, 0, 0)}}, Now: now, RuntimeName: "celox",
			Devices: tt.claims, Plugged: tt.plugged,
		})
		got := ""
		for _, r := range Find(computed.ContainerStatuses, "a").AllocatedResourcesStatus {
			got += string(r.Name) + " " + string(r.Resources[0].Health) + ", "
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestDevices: the devices of containers with claims are shown, and what was known of them stays when no more is known.
func TestDevices(t *testing.T) {
	said := func(health corev1.ResourceHealthStatus) []corev1.ResourceStatus {
		return []corev1.ResourceStatus{{Name: "claim:d", Resources: []corev1.ResourceHealth{{ResourceID: "x", Health: health}}}}
	}
	claims := []corev1.ResourceClaim{{Name: "d"}}
	for name, tt := range map[string]struct {
		claims []corev1.ResourceClaim
		now    map[string][]corev1.ResourceStatus
		old    []corev1.ResourceStatus
		want   corev1.ResourceHealthStatus
	}{
		"first":         {claims, map[string][]corev1.ResourceStatus{"a": said("Healthy")}, nil, "Healthy"},
		"another":       {claims, map[string][]corev1.ResourceStatus{"a": said("Unhealthy")}, said("Healthy"), "Unhealthy"},
		"no more known": {claims, nil, said("Unhealthy"), "Unhealthy"},
		"never known":   {claims, nil, nil, ""},
		"no device":     {claims, map[string][]corev1.ResourceStatus{"a": nil}, said("Healthy"), ""},
		"no claim":      {nil, nil, said("Healthy"), ""},
	} {
		p := pod("Always", nil, "a", "b")
		p.Spec.Containers[0].Resources.Claims = tt.claims
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", AllocatedResourcesStatus: tt.old}, {Name: "b"}}
		got := Compute(Input{Pod: p, Observed: &observed.Pod{Containers: []observed.Container{c("a", running, 0, 0), c("b", running, 0, 0)}}, Now: now, RuntimeName: "celox", Devices: tt.now})
		var health corev1.ResourceHealthStatus
		for _, r := range Find(got.ContainerStatuses, "a").AllocatedResourcesStatus {
			health = r.Resources[0].Health
		}
		if health != tt.want || Find(got.ContainerStatuses, "b").AllocatedResourcesStatus != nil {
			t.Errorf("%s: %q, want %q", name, health, tt.want)
		}
	}
}
