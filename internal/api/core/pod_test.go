package core

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// newPod makes a pod of a spec and a status as the server would store it.
func newPod(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	p := decodePod(t, text)
	status := p.Status
	k := pod()
	k.Default(p)
	k.PrepareForCreate(p)
	if status.Phase != "" || status.ContainerStatuses != nil || status.InitContainerStatuses != nil || status.Conditions != nil {
		status.QOSClass = p.Status.QOSClass
		p.Status = status
	}
	return p
}

func decodePod(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := json.Unmarshal([]byte(text), p); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func lines(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

func TestPodIsPrepared(t *testing.T) {
	p := newPod(t, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}],"terminationGracePeriodSeconds":-5,"schedulingGates":[{"name":"g"}]}}`)
	if p.Generation != 1 || p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("got %+v", p.Status)
	}
	if c := p.Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulingGated || c[0].LastTransitionTime.IsZero() {
		t.Errorf("conditions %+v", c)
	}
	if g := *p.Spec.TerminationGracePeriodSeconds; g != 1 {
		t.Errorf("grace period %d", g)
	}
	p.Spec.ServiceAccountName = "me" // as admission does
	pod().Canonicalize(p)
	if p.Spec.DeprecatedServiceAccount != "me" {
		t.Errorf("old name of the service account: %q", p.Spec.DeprecatedServiceAccount)
	}
}

func TestNewPodIsValidated(t *testing.T) {
	p := newPod(t, `{"metadata":{"name":"p","annotations":{"kubernetes.io/config.mirror":"m"}},"spec":{"containers":[{"name":"c","image":"i"}],
		"ephemeralContainers":[{"name":"e","image":"i"}]}}`)
	want := []string{
		`metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "m": must set spec.nodeName if mirror pod annotation is set`,
		`spec.ephemeralContainers: Forbidden: cannot be set on create`,
	}
	if got := lines(validateNewPod(p)); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	p = newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}],"nodeName":"n","schedulingGates":[{"name":"g"}]}}`)
	want = []string{`spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared`}
	if got := lines(validateNewPod(p)); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPodUpdate(t *testing.T) {
	const (
		plain = `{"spec":{"containers":[{"name":"c","image":"i"}],"tolerations":[{"key":"k","operator":"Exists"}],"activeDeadlineSeconds":50}}`
		gated = `{"spec":{"containers":[{"name":"c","image":"i"}],"schedulingGates":[{"name":"a"},{"name":"b"}],"nodeSelector":{"x":"y"},"affinity":{"nodeAffinity":{
			"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}}}`
	)
	for _, c := range []struct {
		name   string
		old    string
		change func(*corev1.Pod)
		want   []string // beginnings
	}{
		{"nothing", plain, func(*corev1.Pod) {}, nil},
		{"an image", plain, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "j" }, nil},
		{"no image", plain, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" }, []string{`spec.containers[0].image: Required value`, `spec.containers[0].image: Required value`}},
		{"a container more", plain, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0])
			p.Spec.Containers[1].Name = "d"
		}, []string{`spec.containers: Forbidden: pod updates may not add or remove containers`}},
		{"an earlier deadline", plain, func(p *corev1.Pod) { *p.Spec.ActiveDeadlineSeconds = 49 }, nil},
		{"a later deadline", plain, func(p *corev1.Pod) { *p.Spec.ActiveDeadlineSeconds = 51 }, []string{`spec.activeDeadlineSeconds: Invalid value: 51: must be less than or equal to previous value`}},
		{"no deadline", plain, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{`spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value`}},
		{"a toleration more", plain, func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "l"}) }, nil},
		{"a toleration less", plain, func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{`spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds`}},
		{"a toleration for a time", plain, func(p *corev1.Pod) {
			var s int64 = 3
			p.Spec.Tolerations[0].TolerationSeconds, p.Spec.Tolerations[0].Effect = &s, "NoExecute"
		}, []string{`spec.tolerations: Forbidden: existing toleration`}},
		{"anything else", plain, func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"}},
		{"a mirror annotation", plain, func(p *corev1.Pod) {
			p.Spec.NodeName = "n"
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}, []string{`metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation`, `spec: Forbidden: pod updates`}},
		{"a gate opened", gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[1:] }, nil},
		{"a gate closed", gated, func(p *corev1.Pod) { p.Spec.SchedulingGates[0].Name = "c" }, []string{`spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'c'`}},
		{"fewer nodes", gated, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"x": "y", "z": ""} }, nil},
		{"other nodes", gated, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"x": "z"} }, []string{
			`spec.nodeSelector: Invalid value: {"x":"z"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)`}},
		{"a stricter term", gated, func(p *corev1.Pod) {
			term := &p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: "b", Operator: "Exists"})
		}, nil},
		{"another term", gated, func(p *corev1.Pod) {
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key = "b"
		}, []string{`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {"MatchExpressions":[{"Key":"b","Operator":"Exists","Values":null}],"MatchFields":null}: only additions are allowed`}},
		{"no affinity", gated, func(p *corev1.Pod) { p.Spec.Affinity = nil }, []string{
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: null: no additions/deletions to non-empty NodeSelectorTerms list are allowed`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(t, c.old)
			p := old.DeepCopy()
			c.change(p)
			preparePodUpdate(p, old)
			got := lines(validatePodUpdate(p, old))
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
			}
		})
	}
}

func TestPodUpdateShowsTheDifference(t *testing.T) {
	old := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	p := old.DeepCopy()
	p.Spec.HostNetwork = true
	errs := validatePodUpdate(p, old)
	if len(errs) != 1 || !strings.HasSuffix(errs[0].Detail, "\n@@ -44,7 +44,7 @@\n  \"DeprecatedServiceAccount\": \"\",\n  \"AutomountServiceAccountToken\": null,\n  \"NodeName\": \"\",\n- \"HostNetwork\": false,\n+ \"HostNetwork\": true,\n  \"HostPID\": false,\n  \"HostIPC\": false,\n  \"ShareProcessNamespace\": null,\n") {
		t.Errorf("got %v", errs)
	}
}

func TestPodStatusUpdate(t *testing.T) {
	ended := `{"spec":{"restartPolicy":"%s","containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running","containerStatuses":[{"name":"c","state":{"terminated":{"exitCode":%d}}}]}}`
	running := func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State = corev1.ContainerState{} }
	const stays = `status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state`
	for _, c := range []struct {
		name   string
		old    string
		change func(*corev1.Pod)
		want   []string
	}{
		{"restarted", fmt.Sprintf(ended, "Always", 0), running, nil},
		{"ended well", fmt.Sprintf(ended, "OnFailure", 0), running, []string{stays}},
		{"failed", fmt.Sprintf(ended, "OnFailure", 1), running, nil},
		{"never again", fmt.Sprintf(ended, "Never", 1), running, []string{stays}},
		{"class", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) { p.Status.QOSClass = "x" }, []string{`status.qosClass: Invalid value: "x": field is immutable`}},
		{"nominated", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) { p.Status.NominatedNodeName = "n" }, nil},
		{"nominated with a node", `{"spec":{"nodeName":"n","containers":[{"name":"c","image":"i"}]}}`, func(p *corev1.Pod) { p.Status.NominatedNodeName = "m" },
			[]string{`status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node`}},
		{"no class", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) { p.Status.QOSClass = "" }, nil},
		{"conditions", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "Ready"}, {Type: "-", ObservedGeneration: -1}}
		}, []string{
			`status.conditions[1].observedGeneration: Invalid value: -1: must be a non-negative integer`,
			`status.conditions[1].Type: Invalid value: "-": name part must consist`,
		}},
		{"addresses", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.PodIPs = []corev1.PodIP{{IP: "1.1.1.1"}, {IP: "1.1.1.1"}}
			p.Status.PodIP = "1.1.1.1"
			p.Status.HostIP, p.Status.HostIPs = "2.2.2.2", []corev1.HostIP{{IP: "3.3.3.3"}}
		}, []string{
			`status.podIPs: Invalid value: [{"IP":"1.1.1.1"},{"IP":"1.1.1.1"}]: may specify no more than one IP for each IP family`,
			"status.hostIPs[0].ip: Invalid value: \"3.3.3.3\": must be equal to `hostIP`",
		}},
		{"no address", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{}} }, []string{
			`status.podIPs[0]: Invalid value: "": must be a valid IP address`,
			`status.podIPs: Invalid value: [{"IP":""}]: podIP and podIPs must either both be set or both be unset`,
		}},
		{"extended claim", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{
				{ContainerName: "c", ResourceName: "a.b/c", RequestName: "r"}, {ContainerName: "x", ResourceName: "a.b/c", RequestName: "R"}}}
		}, []string{
			`status.extendedResourceClaimStatus.requestMappings[0].resourceName: Invalid value: "a.b/c": must match the extended resource name of an entry in`,
			`status.extendedResourceClaimStatus.requestMappings[1].containerName: Invalid value: "x": must match the name of an entry in`,
			`status.extendedResourceClaimStatus.requestName: Invalid value: "R": a lowercase RFC 1123 label`,
			`status.extendedResourceClaimStatus.resourceClaimName: Required value`,
		}},
		{"extended claim of nothing", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
		}, []string{`status.extendedResourceClaimStatus.requestMappings: Required value: at least one request mapping is required`}},
		{"devices", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].AllocatedResourcesStatus = []corev1.ResourceStatus{{Name: "a.b/c"}, {Name: "claim:x", Resources: []corev1.ResourceHealth{
				{ResourceID: "1", Health: "Healthy", Message: new("")}, {ResourceID: "1", Health: "Fine", Message: new(strings.Repeat("x", 1025))}}}}
			p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{AllocatedResourcesStatus: []corev1.ResourceStatus{{}}}}
		}, []string{
			`status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: "a.b/c": must match one of the container's resource requests`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].name: Invalid value: "claim:x": must match one of the container's resource claims`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].resources[0].message: Required value: must be non-empty if specified`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].resources[1].health: Unsupported value: "Fine": supported values: "Healthy", "Unhealthy", "Unknown"`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].resources[1].message: Too long: may not be more than 1024 bytes`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].resources[1].resourceID: Duplicate value: "1"`,
			`status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status`,
		}},
		{"users", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: 1 << 32, GID: -1, SupplementalGroups: []int64{0, 1 << 31}}}
		}, []string{
			`status.containerStatuses[0].user.linux.uid: Invalid value: 4294967296: must be between 0 and 4294967295, inclusive`,
			`status.containerStatuses[0].user.linux.gid: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`status.containerStatuses[0].user.linux.supplementalGroups[1]: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive`,
		}},
		{"spec and owners", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Spec.NodeName, p.OwnerReferences = "n", []metav1.OwnerReference{{Name: "o"}}
		}, nil},
		{"claims", fmt.Sprintf(ended, "Never", 1), func(p *corev1.Pod) {
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x"}}
		}, []string{"status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(t, c.old)
			p := old.DeepCopy()
			c.change(p)
			preparePodStatus(p, old)
			if p.Spec.NodeName != old.Spec.NodeName || p.OwnerReferences != nil {
				t.Errorf("the status door let through %+v", p)
			}
			if got := lines(validatePodStatusUpdate(p, old)); !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
			}
		})
	}
}

func TestPodResize(t *testing.T) {
	const text = `{"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1","memory":"1Gi"},"limits":{"cpu":"2"}}}],
		"initContainers":[{"name":"i","image":"i","resources":{"requests":{"cpu":"1"}}}]}}`
	quantity := func(p *corev1.Pod, name corev1.ResourceName, v string) {
		p.Spec.Containers[0].Resources.Requests[name] = mustQuantity(v)
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []string
	}{
		{"more", func(p *corev1.Pod) { quantity(p, "cpu", "2"); quantity(p, "memory", "2Gi") }, nil},
		{"another image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "j"; p.Labels = map[string]string{"a": "b"} }, nil},
		{"another name", func(p *corev1.Pod) { p.Spec.Containers[0].Name = "d"; p.Spec.Containers[0].Image = "i" }, []string{
			`spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize`}},
		{"one more", func(p *corev1.Pod) {
			one := p.Spec.Containers[0].DeepCopy()
			one.Name = "d"
			p.Spec.Containers = append(p.Spec.Containers, *one)
		}, []string{`spec.containers: Forbidden: containers may not be added or removed on resize`}},
		{"no init container", func(p *corev1.Pod) { p.Spec.InitContainers = nil }, []string{
			`spec.initContainers: Forbidden: initContainers may not be added or removed on resize`}},
		{"a request less", func(p *corev1.Pod) { delete(p.Spec.Containers[0].Resources.Requests, "memory") }, []string{
			`spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed`}},
		{"a limit less", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = nil }, []string{
			`spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed`}},
		{"storage", func(p *corev1.Pod) { quantity(p, "ephemeral-storage", "1") }, []string{`spec: Forbidden: only cpu and memory resources are mutable`}},
		{"above the limit", func(p *corev1.Pod) { quantity(p, "cpu", "3") }, []string{
			`spec.containers[0].resources.requests: Invalid value: "3": must be less than or equal to cpu limit of 2`}},
		{"an init container", func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests["cpu"] = mustQuantity("2") }, nil},
		{"a request of an init container less", func(p *corev1.Pod) { p.Spec.InitContainers[0].Resources.Requests = nil }, []string{
			`spec.initContainers[0].resources.requests: Forbidden: resource requests cannot be removed`}},
		{"storage of an init container", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Resources.Requests["ephemeral-storage"] = mustQuantity("1")
		}, []string{
			`spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable`}},
		{"an init container that would begin again", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}
		}, []string{
			`spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: "RestartContainer": must not be set to 'RestartContainer' for non-sidecar initContainers`,
			`spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable`,
			`spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(t, text)
			p := old.DeepCopy()
			c.change(p)
			PreparePodResize(p, old)
			if p.Spec.Containers[0].Image != "i" || p.Labels != nil {
				t.Errorf("the resize door let through %+v", p)
			}
			if got := lines(ValidatePodResize(p, old)); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s", strings.Join(got, "\n\t"))
			}
		})
	}
	whole := newPod(t, `{"spec":{"resources":{"requests":{"cpu":"1"}},"containers":[{"name":"c","image":"i"}]}}`)
	part := whole.DeepCopy()
	part.Spec.Resources.Requests["cpu"] = mustQuantity("2")
	PreparePodResize(part, whole)
	if errs := ValidatePodResize(part, whole); len(errs) > 0 || part.Spec.Resources.Requests.Cpu().String() != "2" {
		t.Errorf("got %v", errs)
	}
	part.Spec.Resources = nil
	PreparePodResize(part, whole)
	if errs := ValidatePodResize(part, whole); len(errs) > 0 || part.Spec.Resources.Requests.Cpu().String() != "1" {
		t.Errorf("what was left out is not kept: %v", errs)
	}
	part.Spec.Resources = nil
	if got := lines(ValidatePodResize(part, whole)); !slices.Contains(got, `spec.resources: Forbidden: pod-level resources cannot be removed`) {
		t.Errorf("got %q", got)
	}
	old := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running","containerStatuses":[{"name":"c","state":{"running":{}}}]}}`)
	p := old.DeepCopy()
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": mustQuantity("1")}
	PreparePodResize(p, old)
	want := []string{`spec: Invalid value: "BestEffort": Pod QOS Class may not change as a result of resizing`, `spec: Forbidden: Pod running on node without support for resize`}
	if got := lines(ValidatePodResize(p, old)); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestPodStatusKeeps: what a writer of the status does not know of stays, and each condition keeps its own generation.
func TestPodStatusKeeps(t *testing.T) {
	old := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"conditions":[{"type":"A","observedGeneration":1},{"type":"A","observedGeneration":2}],
		"resourceClaimStatuses":[{"name":"r"}],"extendedResourceClaimStatus":{"resourceClaimName":"x"}}}`)
	p := old.DeepCopy()
	p.Status = corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "A"}, {Type: "A", ObservedGeneration: 5}, {Type: "A"}},
		ContainerStatuses: []corev1.ContainerStatus{{VolumeMounts: []corev1.VolumeMountStatus{{VolumeStatus: &corev1.VolumeStatus{}}}}}}
	preparePodStatus(p, old)
	if len(p.Status.ResourceClaimStatuses) != 1 || p.Status.ExtendedResourceClaimStatus == nil || p.Status.ContainerStatuses[0].VolumeMounts[0].VolumeStatus != nil {
		t.Errorf("got %+v", p.Status)
	}
	for i, want := range []int64{1, 5, 0} {
		if got := p.Status.Conditions[i].ObservedGeneration; got != want {
			t.Errorf("condition %d: got %d, want %d", i, got, want)
		}
	}
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{}
	if preparePodStatus(p, old); len(p.Status.ResourceClaimStatuses) != 0 {
		t.Error("an empty list did not clear the claims")
	}
}

// TestPodLevelResize: a pod's own resources change like those of its containers.
func TestPodLevelResize(t *testing.T) {
	const head = `{"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1"}}}]`
	for _, c := range []struct{ name, old, now, want string }{
		{"for the first time", ``, `,"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"3"}}`, ""},
		{"changed", `,"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"3"}}`, `,"resources":{"requests":{"cpu":"1"},"limits":{"cpu":"4"}}`, ""},
		{"a limit less", `,"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"3"}}`, `,"resources":{"requests":{"cpu":"2"}}`,
			"spec.resources.limits: Forbidden: pod-level resource limits cannot be removed"},
		{"another resource", `,"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"3"}}`, `,"resources":{"requests":{"cpu":"2","hugepages-2Mi":"2Mi"},"limits":{"cpu":"3","hugepages-2Mi":"2Mi"}}`,
			"spec: Forbidden: only cpu and memory resources are mutable at pod-level"},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, p := newPod(t, head+c.old+`}}`), newPod(t, head+c.now+`}}`)
			PreparePodResize(p, old)
			if got := strings.Join(lines(ValidatePodResize(p, old)), "\n"); got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
	for _, c := range []struct{ meta, spec, want string }{
		{`"annotations":{"kubernetes.io/config.mirror":"x"}`, ``, "static pods cannot be resized"},
		{``, `"os":{"name":"windows"},`, "windows pods cannot be resized"},
	} {
		old := newPod(t, `{"metadata":{`+c.meta+`},"spec":{`+c.spec+`"containers":[{"name":"c","image":"i"}]}}`)
		p := old.DeepCopy()
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": mustQuantity("-1")}
		if errs := ValidatePodResize(p, old); len(errs) != 1 || errs[0].Detail != c.want {
			t.Errorf("got %v, want %s", errs, c.want)
		}
	}
}

func TestEphemeralContainersUpdate(t *testing.T) {
	old := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	old.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "i"}}}
	k := pod()
	k.Default(old)
	add := old.DeepCopy()
	add.Spec.NodeName = "n"
	add.Spec.EphemeralContainers = append(add.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "f", Image: "i"}})
	k.Default(add)
	PreparePodEphemeralContainers(add, old)
	if errs := ValidatePodEphemeralContainersUpdate(add, old); len(errs) > 0 || add.Spec.NodeName != "" {
		t.Errorf("got %v, node %q", errs, add.Spec.NodeName)
	}
	change := old.DeepCopy()
	change.Spec.EphemeralContainers[0].Image = "j"
	PreparePodEphemeralContainers(change, old)
	errs := ValidatePodEphemeralContainersUpdate(change, old)
	if len(errs) != 1 || !strings.HasPrefix(errs[0].Detail, "existing ephemeral containers \"e\" may not be changed\n@@ -1,6 +1,6 @@\n {\n  \"Name\": \"e\",\n- \"Image\": \"i\",\n+ \"Image\": \"j\",\n") {
		t.Errorf("got %v", errs)
	}
	remove := old.DeepCopy()
	remove.Spec.EphemeralContainers = nil
	PreparePodEphemeralContainers(remove, old)
	if got := lines(ValidatePodEphemeralContainersUpdate(remove, old)); !slices.Equal(got, []string{"spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"}) {
		t.Errorf("got %q", got)
	}
}

func TestPodGracePeriod(t *testing.T) {
	p := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}],"nodeName":"n","terminationGracePeriodSeconds":7}}`)
	five, less := int64(5), int64(-5)
	for _, c := range []struct {
		asked *int64
		want  int64
	}{{nil, 7}, {&five, 5}, {&less, 1}} {
		if got := podGracePeriod(p, c.asked); got != c.want {
			t.Errorf("got %d, want %d", got, c.want)
		}
	}
	p.Status.Phase = corev1.PodFailed
	if got := podGracePeriod(p, &five); got != 0 {
		t.Errorf("a pod that has ended gets %d s", got)
	}
	p.Status.Phase, p.Spec.NodeName = corev1.PodRunning, ""
	if got := podGracePeriod(p, nil); got != 0 {
		t.Errorf("a pod that no node has gets %d s", got)
	}
}

func TestPodFields(t *testing.T) {
	k := pod()
	p := newPod(t, `{"spec":{"containers":[{"name":"c","image":"i"}],"nodeName":"n","hostNetwork":true}}`)
	p.Status.PodIPs = []corev1.PodIP{{IP: "1.1.1.1"}}
	set := k.Fields(p)
	if set["spec.nodeName"] != "n" || set["spec.hostNetwork"] != "true" || set["status.podIP"] != "1.1.1.1" || set["spec.schedulerName"] != "default-scheduler" {
		t.Errorf("got %v", set)
	}
	for name := range set {
		if !slices.Contains(k.FieldNames, name) {
			t.Errorf("%s is not among the names", name)
		}
	}
	if got := k.Indexes["spec.nodeName"](p); !slices.Equal(got, []string{"n"}) {
		t.Errorf("index %v", got)
	}
}
