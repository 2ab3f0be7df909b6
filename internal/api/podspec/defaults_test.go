package podspec

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func decode[T any](t *testing.T, text string) *T {
	t.Helper()
	out := new(T)
	if err := json.Unmarshal([]byte(text), out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return out
}

func TestSetPodDefaults(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"the least": {
			in: `{"containers":[{"name":"a","image":"x"}]}`,
			want: `{"containers":[{"name":"a","image":"x","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always"}],
				"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler","enableServiceLinks":true}`,
		},
		"the old name of the service account": {
			in: `{"containers":null,"serviceAccount":"me"}`,
			want: `{"containers":null,"serviceAccount":"me","serviceAccountName":"me",
				"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler","enableServiceLinks":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, c.in)}
			SetPodDefaults(pod)
			if want := decode[corev1.PodSpec](t, c.want); !reflect.DeepEqual(*want, pod.Spec) {
				got, _ := json.Marshal(pod.Spec)
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestContainerDefaults(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"probes": {
			in: `{"image":"x","livenessProbe":{"httpGet":{"port":1}},"readinessProbe":{"grpc":{"port":2},"periodSeconds":5},"startupProbe":{"tcpSocket":{"port":3}}}`,
			want: `{"image":"x","livenessProbe":{"httpGet":{"port":1,"path":"/","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},
				"readinessProbe":{"grpc":{"port":2,"service":""},"timeoutSeconds":1,"periodSeconds":5,"successThreshold":1,"failureThreshold":3},
				"startupProbe":{"tcpSocket":{"port":3},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}}`,
		},
		"ports, environment, hooks": {
			in: `{"image":"x","ports":[{"containerPort":1},{"containerPort":2,"protocol":"UDP"}],"env":[{"name":"a","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}},
				{"name":"b","valueFrom":{"fileKeyRef":{"volumeName":"v","path":"p","key":"k"}}}],"lifecycle":{"preStop":{"httpGet":{"port":9,"path":"/x"}}}}`,
			want: `{"image":"x","ports":[{"containerPort":1,"protocol":"TCP"},{"containerPort":2,"protocol":"UDP"}],
				"env":[{"name":"a","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.uid"}}},{"name":"b","valueFrom":{"fileKeyRef":{"volumeName":"v","path":"p","key":"k","optional":false}}}],
				"lifecycle":{"preStop":{"httpGet":{"port":9,"path":"/x","scheme":"HTTP"}}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, want := decode[corev1.Container](t, c.in), decode[corev1.Container](t, c.want)
			setContainerDefaults(got)
			want.ImagePullPolicy, want.TerminationMessagePath, want.TerminationMessagePolicy = "Always", "/dev/termination-log", "File"
			if !reflect.DeepEqual(got, want) {
				text, _ := json.Marshal(got)
				t.Errorf("got %s", text)
			}
		})
	}
}

func TestVolumeDefaults(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                            `{"emptyDir":{}}`,
		`{"hostPath":{"path":"/"}}`:     `{"hostPath":{"path":"/","type":""}}`,
		`{"secret":{"secretName":"s"}}`: `{"secret":{"secretName":"s","defaultMode":420}}`,
		`{"configMap":{"name":"s","defaultMode":256}}`:                          `{"configMap":{"name":"s","defaultMode":256}}`,
		`{"downwardAPI":{"items":[{"path":"a","fieldRef":{"fieldPath":"b"}}]}}`: `{"downwardAPI":{"defaultMode":420,"items":[{"path":"a","fieldRef":{"apiVersion":"v1","fieldPath":"b"}}]}}`,
		`{"projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}`:      `{"projected":{"defaultMode":420,"sources":[{"serviceAccountToken":{"path":"t","expirationSeconds":3600}}]}}`,
		`{"iscsi":{"targetPortal":"p","iqn":"i","lun":1}}`:                      `{"iscsi":{"targetPortal":"p","iqn":"i","lun":1,"iscsiInterface":"default"}}`,
		`{"rbd":{"monitors":["m"],"image":"i"}}`:                                `{"rbd":{"monitors":["m"],"image":"i","pool":"rbd","user":"admin","keyring":"/etc/ceph/keyring"}}`,
		`{"azureDisk":{"diskName":"n","diskURI":"u"}}`:                          `{"azureDisk":{"diskName":"n","diskURI":"u","cachingMode":"ReadWrite","fsType":"ext4","readOnly":false,"kind":"Shared"}}`,
		`{"scaleIO":{"gateway":"g","system":"s","secretRef":null}}`:             `{"scaleIO":{"gateway":"g","system":"s","secretRef":null,"storageMode":"ThinProvisioned","fsType":"xfs"}}`,
		`{"ephemeral":{"volumeClaimTemplate":{"spec":{}}}}`:                     `{"ephemeral":{"volumeClaimTemplate":{"spec":{"volumeMode":"Filesystem"}}}}`,
		`{"image":{"reference":"a/b:1"}}`:                                       `{"image":{"reference":"a/b:1","pullPolicy":"IfNotPresent"}}`,
	} {
		got := decode[corev1.VolumeSource](t, in)
		setVolumeDefaults(got)
		if !reflect.DeepEqual(got, decode[corev1.VolumeSource](t, want)) {
			text, _ := json.Marshal(got)
			t.Errorf("%s: got %s", in, text)
		}
	}
}

func TestPullPolicy(t *testing.T) {
	const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for image, want := range map[string]corev1.PullPolicy{
		"a": "Always", "a:latest": "Always", "a:1": "IfNotPresent", "h:5000/a": "Always", "h:5000/a:1": "IfNotPresent",
		"a" + digest: "IfNotPresent", "a:1" + digest: "IfNotPresent", "a:latest" + digest: "Always",
		"": "IfNotPresent", "A": "IfNotPresent", "a:": "IfNotPresent", "/abs": "IfNotPresent", " a ": "IfNotPresent", "$(X)": "IfNotPresent", "a@sha256:x": "IfNotPresent",
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

func TestRequestsOfPods(t *testing.T) {
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, `{
		"hostNetwork":true,
		"containers":[{"name":"a","image":"x","ports":[{"containerPort":7}],"resources":{"limits":{"cpu":"0.0001","memory":"1Gi"},"requests":{"memory":"1Mi"}}}],
		"resources":{"limits":{"cpu":"2","memory":"3Gi"}}}`)}
	SetPodDefaults(pod)
	SetPodLevelResources(pod)
	r := pod.Spec.Containers[0].Resources
	if q := r.Requests[corev1.ResourceCPU]; q.String() != "1m" {
		t.Errorf("cpu request is %s", q.String())
	}
	if q := r.Requests[corev1.ResourceMemory]; q.String() != "1Mi" {
		t.Errorf("memory request is %s", q.String())
	}
	if p := pod.Spec.Containers[0].Ports[0].HostPort; p != 7 {
		t.Errorf("host port is %d", p)
	}
	if q := pod.Spec.Resources.Requests[corev1.ResourceMemory]; q.String() != "1Mi" {
		t.Errorf("the pod requests %s", q.String())
	}
	template := &corev1.PodTemplateSpec{Spec: *decode[corev1.PodSpec](t, `{"hostNetwork":true,"containers":[{"name":"a","image":"x","ports":[{"containerPort":7}],"resources":{"limits":{"cpu":1}}}]}`)}
	SetPodTemplateDefaults(template)
	if c := template.Spec.Containers[0]; c.Ports[0].HostPort != 0 || c.Resources.Requests != nil || template.Spec.EnableServiceLinks != nil {
		t.Errorf("a template got what only pods get: %+v", template.Spec)
	}
}

func TestStatusAddresses(t *testing.T) {
	for _, c := range []struct {
		ip   string
		ips  []corev1.PodIP
		want []corev1.PodIP
	}{
		{"1.1.1.1", nil, []corev1.PodIP{{IP: "1.1.1.1"}}},
		{"1.1.1.1", []corev1.PodIP{{IP: "2.2.2.2"}, {IP: "::1"}}, []corev1.PodIP{{IP: "1.1.1.1"}}},
		{"1.1.1.1", []corev1.PodIP{{IP: "1.1.1.1"}, {IP: "::1"}}, []corev1.PodIP{{IP: "1.1.1.1"}, {IP: "::1"}}},
		{"", []corev1.PodIP{{IP: "1.1.1.1"}}, []corev1.PodIP{{IP: "1.1.1.1"}}},
		{"", nil, nil},
	} {
		s := corev1.PodStatus{PodIP: c.ip, PodIPs: c.ips}
		SetPodStatusDefaults(&s)
		if !reflect.DeepEqual(s.PodIPs, c.want) || (len(c.want) > 0 && s.PodIP != c.want[0].IP) {
			t.Errorf("%q %v: got %q %v", c.ip, c.ips, s.PodIP, s.PodIPs)
		}
	}
}

// anyPod draws pods, most of them wrong in some way.
func anyPod() *rapid.Generator[*corev1.Pod] {
	return rapid.Custom(func(t *rapid.T) *corev1.Pod {
		name := rapid.SampledFrom([]string{"a", "b", "c", "", "A b"})
		quantity := rapid.SampledFrom([]string{"0", "1", "100m", "0.0001", "1Gi", "-1", "1500"})
		resources := func() corev1.ResourceList {
			var out corev1.ResourceList
			for _, r := range rapid.SliceOfN(rapid.SampledFrom([]corev1.ResourceName{"cpu", "memory", "hugepages-2Mi", "example.com/x", "odd"}), 0, 3).Draw(t, "resources") {
				if out == nil {
					out = corev1.ResourceList{}
				}
				out[r] = resource.MustParse(quantity.Draw(t, "quantity"))
			}
			return out
		}
		probe := func() *corev1.Probe {
			switch rapid.IntRange(0, 4).Draw(t, "probe") {
			case 0:
				return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(rapid.Int32Range(-1, 2).Draw(t, "port"))}}}
			case 1:
				return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 1}}, PeriodSeconds: rapid.Int32Range(-1, 3).Draw(t, "period")}
			case 2:
				return &corev1.Probe{}
			}
			return nil
		}
		container := func() corev1.Container {
			c := corev1.Container{
				Name: name.Draw(t, "name"), Image: rapid.SampledFrom([]string{"", "x", "x:1", "x:latest", "r:1/x", " x"}).Draw(t, "image"),
				Resources:     corev1.ResourceRequirements{Limits: resources(), Requests: resources()},
				LivenessProbe: probe(), ReadinessProbe: probe(),
			}
			for range rapid.IntRange(0, 2).Draw(t, "ports") {
				c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: rapid.Int32Range(-1, 3).Draw(t, "port"), HostPort: rapid.Int32Range(0, 2).Draw(t, "host port")})
			}
			if rapid.Bool().Draw(t, "mounts") {
				c.VolumeMounts = []corev1.VolumeMount{{Name: name.Draw(t, "volume"), MountPath: "/m"}}
			}
			if rapid.Bool().Draw(t, "restarts") {
				p := rapid.SampledFrom([]corev1.ContainerRestartPolicy{"Always", "Never", "X"}).Draw(t, "policy")
				c.RestartPolicy = &p
			}
			return c
		}
		pod := &corev1.Pod{}
		pod.Name = name.Draw(t, "pod")
		for range rapid.IntRange(0, 2).Draw(t, "containers") {
			pod.Spec.Containers = append(pod.Spec.Containers, container())
		}
		for range rapid.IntRange(0, 2).Draw(t, "init containers") {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, container())
		}
		for range rapid.IntRange(0, 2).Draw(t, "volumes") {
			v := corev1.Volume{Name: name.Draw(t, "volume")}
			switch rapid.IntRange(0, 3).Draw(t, "source") {
			case 0:
				v.HostPath = &corev1.HostPathVolumeSource{Path: "/x"}
			case 1:
				v.Projected = &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}
			case 2:
				v.Image = &corev1.ImageVolumeSource{Reference: "x"}
			}
			pod.Spec.Volumes = append(pod.Spec.Volumes, v)
		}
		pod.Spec.HostNetwork = rapid.Bool().Draw(t, "host network")
		if rapid.Bool().Draw(t, "own resources") {
			pod.Spec.Resources = &corev1.ResourceRequirements{Limits: resources(), Requests: resources()}
		}
		return pod
	})
}

func TestDefaultsOfAnyPod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pod := anyPod().Draw(t, "pod")
		SetPodDefaults(pod)
		again := pod.DeepCopy()
		SetPodDefaults(again)
		if !reflect.DeepEqual(pod, again) {
			t.Fatalf("defaulting twice differs:\n%+v\n%+v", pod, again)
		}
		kept := pod.DeepCopy()
		errs := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, nil, Options{})
		PodWarnings(pod)
		if !reflect.DeepEqual(pod, kept) {
			t.Fatal("validation changed the pod")
		}
		// What is valid in a pod is valid in a template, and stays valid against itself.
		if len(errs) == 0 {
			if more := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, nil, Options{Template: true}); len(more) > 0 {
				t.Fatalf("valid in a pod, not in a template: %v", more)
			}
			if more := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, nil, OptionsForSpec(&pod.Spec)); len(more) > 0 {
				t.Fatalf("no longer valid on update: %v", more)
			}
		}
	})
}

func TestQOSClass(t *testing.T) {
	for spec, want := range map[string]corev1.PodQOSClass{
		`{"containers":[{}]}`: corev1.PodQOSBestEffort,
		`{"containers":[{"resources":{"requests":{"example.com/x":"1"}}}]}`:                                                                                       corev1.PodQOSBestEffort,
		`{"containers":[{"resources":{"requests":{"cpu":"0"}}}]}`:                                                                                                 corev1.PodQOSBestEffort,
		`{"containers":[{"resources":{"requests":{"cpu":"1"}}}]}`:                                                                                                 corev1.PodQOSBurstable,
		`{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1000m","memory":"1"}}}]}`:                                              corev1.PodQOSGuaranteed,
		`{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}},{}]}`:                                               corev1.PodQOSBurstable,
		`{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"2","memory":"1"}}}]}`:                                                  corev1.PodQOSBurstable,
		`{"containers":[{}],"resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}}`:                                                 corev1.PodQOSGuaranteed,
		`{"containers":[{"resources":{"limits":{"cpu":"1","memory":"1"},"requests":{"cpu":"1","memory":"1"}}}],"initContainers":[{"resources":{}}]}`:              corev1.PodQOSBurstable,
		`{"containers":[{"resources":{"limits":{"cpu":"1","memory":"1"},"requests":{"cpu":"1","memory":"1"}}}],"resources":{"requests":{"cpu":"1"},"limits":{}}}`: corev1.PodQOSBurstable,
	} {
		if got := QOSClass(decode[corev1.PodSpec](t, spec)); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}

func TestPodLevelResources(t *testing.T) {
	for _, c := range []struct{ name, spec, want string }{
		{"nothing is said", `{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}`, `null`},
		{"nothing of the whole", `{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}],"resources":{}}`, `{}`},
		{"requests of the containers", `{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}},{"name":"b","resources":{"requests":{"cpu":"1"}}}],"resources":{"requests":{"memory":"1Gi"}}}`,
			`{"requests":{"cpu":"2","memory":"1Gi"}}`},
		{"limits, as all containers have one", `{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2"}}},{"name":"b","resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2"}}}],"resources":{"requests":{"cpu":"3"}}}`,
			`{"limits":{"cpu":"4"},"requests":{"cpu":"3"}}`},
		{"one container has none", `{"containers":[{"name":"a","resources":{"limits":{"cpu":"2"}}},{"name":"b"}],"resources":{"requests":{"cpu":"3"}}}`, `{"requests":{"cpu":"3"}}`},
		{"more than the containers' limits", `{"containers":[{"name":"a","resources":{"limits":{"cpu":"2"}}}],"resources":{"requests":{"cpu":"3"}}}`, `{"limits":{"cpu":"3"},"requests":{"cpu":"3"}}`},
		{"limits alone", `{"containers":[{"name":"a"}],"resources":{"limits":{"cpu":"2"}}}`, `{"limits":{"cpu":"2"},"requests":{"cpu":"2"}}`},
		{"huge pages", `{"containers":[{"name":"a","resources":{"requests":{"hugepages-2Mi":"2Mi"},"limits":{"hugepages-2Mi":"2Mi"}}}],"resources":{"requests":{"cpu":"1"}}}`,
			`{"limits":{"hugepages-2Mi":"2Mi"},"requests":{"cpu":"1","hugepages-2Mi":"2Mi"}}`},
	} {
		pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, c.spec)}
		for range 2 { // once more changes nothing
			SetPodLevelResources(pod)
			if got, err := json.Marshal(pod.Spec.Resources); err != nil || string(got) != c.want {
				t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
			}
		}
	}
}

func TestDropDisabled(t *testing.T) {
	const spec = `{"containers":[{"name":"a","lifecycle":{"stopSignal":"SIGINT"}},{"name":"b","lifecycle":{"stopSignal":"SIGINT","preStop":{"sleep":{"seconds":1}}}}],
		"volumes":[{"name":"v","projected":{"sources":[{"clusterTrustBundle":{"path":"x","user":1}},{"podCertificate":{"keyType":"ED25519","user":1}}]}}],"schedulingGroup":{}}`
	s := decode[corev1.PodSpec](t, spec)
	DropDisabled(s, nil)
	if s.Containers[0].Lifecycle != nil || s.Containers[1].Lifecycle.StopSignal != nil || s.Containers[1].Lifecycle.PreStop == nil || s.SchedulingGroup != nil {
		t.Errorf("left %+v", s)
	}
	// What a feature that is on brought stays, but for the field of one that is off.
	if p := s.Volumes[0].Projected.Sources; p[0].ClusterTrustBundle == nil || p[0].ClusterTrustBundle.User != nil || p[1].PodCertificate == nil || p[1].PodCertificate.User != nil {
		t.Errorf("left %+v", p)
	}
	kept := decode[corev1.PodSpec](t, spec)
	DropDisabled(kept, decode[corev1.PodSpec](t, spec))
	if !reflect.DeepEqual(kept, decode[corev1.PodSpec](t, spec)) {
		t.Errorf("took away what was stored: %+v", kept)
	}
}

func TestDropDisabledFeatures(t *testing.T) {
	for name, spec := range map[string]string{
		"GenericWorkload":      `{"schedulingGroup":{}}`,
		"EvictionRequestAPI":   `{"evictionResponders":[{"name":"example.com/a","priority":1}]}`,
		"ContainerStopSignals": `{"initContainers":[{"name":"c","lifecycle":{"stopSignal":"SIGINT"}}],"ephemeralContainers":[{"name":"e","lifecycle":{"stopSignal":"SIGINT"}}]}`,
		"EmptyDirVolumeMode":   `{"volumes":[{"name":"v","emptyDir":{"mode":511}}]}`,
		"AtomicWriteVolumeUserFields": `{"volumes":[{"name":"s","secret":{"defaultUser":1,"items":[{"key":"k","path":"p","user":2}]}},
			{"name":"c","configMap":{"defaultUser":1,"items":[{"key":"k","path":"p","user":2}]}},{"name":"d","downwardAPI":{"defaultUser":1,"items":[{"path":"p","user":2}]}},
			{"name":"p","projected":{"defaultUser":1,"sources":[{"secret":{"items":[{"key":"k","path":"p","user":2}]}},{"configMap":{"items":[{"key":"k","path":"p","user":2}]}},
			{"downwardAPI":{"items":[{"path":"p","user":2}]}},{"serviceAccountToken":{"path":"t","user":2}}]}}]}`,
		"VolumeBindMountOptions": `{"containers":[{"name":"c","volumeMounts":[{"name":"v","mountPath":"/v","bindMountOptions":["noexec"]}]}]}`,
		"H2CContainerProbe": `{"containers":[{"name":"c","livenessProbe":{"httpGet":{"port":1,"protocol":"HTTP2"}},"lifecycle":{"preStop":{"httpGet":{"port":1,"protocol":"HTTP2"}}}}],
			"ephemeralContainers":[{"name":"e","startupProbe":{"httpGet":{"port":1,"protocol":"HTTP2"}}}]}`,
		"GRPCContainerProbeTLS": `{"initContainers":[{"name":"c","readinessProbe":{"grpc":{"port":1,"mode":"TLS"}}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(disabledFeatures(), func(f feature) bool { return f.name == name })
			if i < 0 {
				t.Fatal("no such feature")
			}
			uses := func(s *corev1.PodSpec) (n int) {
				disabledFeatures()[i].each(s, func(set bool, _ func()) {
					if set {
						n++
					}
				})
				return n
			}
			s := decode[corev1.PodSpec](t, spec)
			if uses(s) == 0 {
				t.Fatal("the specification does not use the feature")
			}
			DropDisabled(s, decode[corev1.PodSpec](t, `{"containers":[{"name":"a"}]}`))
			if n := uses(s); n != 0 {
				t.Errorf("%d uses are left", n)
			}
			if raw, err := json.Marshal(s); err != nil || strings.Contains(string(raw), `ser":`) {
				t.Errorf("%s, %v", raw, err) // "user" or "defaultUser"
			}
			kept := decode[corev1.PodSpec](t, spec)
			DropDisabled(kept, decode[corev1.PodSpec](t, spec))
			if !reflect.DeepEqual(kept, decode[corev1.PodSpec](t, spec)) {
				t.Error("took away what was stored")
			}
		})
	}
	if n := len(disabledFeatures()); n != 8 {
		t.Errorf("%d features, but 10 are tried here", n)
	}
}
