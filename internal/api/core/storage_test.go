package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api/apitest"
)

const volumeHead = `capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], `

func TestPersistentVolume(t *testing.T) {
	apitest.Check(t, Kinds(), "PersistentVolume", []apitest.Case{
		{"empty", `spec: {}`, "spec.accessModes: Required value\nspec.capacity: Required value\nspec.capacity: Unsupported value: null: supported values: \"storage\"\nspec: Required value: must specify a volume type"},
		{"two", `spec: {` + volumeHead + `hostPath: {path: /a}, nfs: {server: s, path: /p}}`, "spec.nfs: Forbidden: may not specify more than 1 volume type"},
		{"one of a driver besides", `spec: {` + volumeHead + `nfs: {server: s, path: /p}, flexVolume: {driver: a/b}}`, ""},
		{"local", `spec: {` + volumeHead + `local: {path: /a/../b}}`, "spec.local.path: Invalid value\nspec.nodeAffinity: Required value: Local volume requires node affinity"},
		{"root", `spec: {` + volumeHead + `hostPath: {path: /x/}, persistentVolumeReclaimPolicy: Recycle}`, ""},
		{"recycled root", `spec: {` + volumeHead + `hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle}`, "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"},
		{"modes", `spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOncePod, ReadWriteOnce], csi: {driver: ""}}`,
			"spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes\nspec.csi.driver: Required value\nspec.csi.volumeHandle: Required value"},
		{"secrets", `spec: {` + volumeHead + `csi: {driver: d, volumeHandle: h, nodePublishSecretRef: {name: A_B}}}`, "spec.csi.nodePublishSecretRef.name: Invalid value\nspec.csi.nodePublishSecretRef.namespace: Required value"},
		{"class", `spec: {` + volumeHead + `nfs: {server: s, path: rel}, nodeAffinity: {}, volumeAttributesClassName: ""}`,
			"spec.nodeAffinity.required: Required value: must specify required node constraints\nspec.nfs.path: Invalid value: \"rel\": must be an absolute path\n" +
				"spec.volumeAttributesClassName: Required value: an empty string is disallowed\nspec.csi: Required value: has to be specified when using volumeAttributesClassName"},
		{"iscsi", `spec: {` + volumeHead + `iscsi: {targetPortal: "", iqn: x, lun: 300, chapAuthSession: true}}`,
			"spec.iscsi.targetPortal: Required value\nspec.iscsi.iqn: Invalid value\nspec.iscsi.lun: Invalid value: 300\nspec.iscsi.secretRef: Required value"},
		{"iscsi names", `spec: {` + volumeHead + `iscsi: {targetPortal: "p", iqn: x, lun: 1, initiatorName: z}}`,
			"spec.iscsi.iqn: Invalid value: \"x\": must be valid format\nspec.iscsi.initiatorname: Invalid value: \"z\": must be valid format"},
		{"mount options", `{metadata: {annotations: {volume.beta.kubernetes.io/mount-options: x}}, spec: {` + volumeHead + `csi: {driver: d, volumeHandle: h}}}`,
			"metadata.annotations.volume.beta.kubernetes.io/mount-options: Forbidden: may not specify mount options for this volume type"},
		{"mount options that are read", `{metadata: {annotations: {volume.beta.kubernetes.io/mount-options: x}}, spec: {` + volumeHead + `nfs: {server: s, path: /p}}}`, ""},
		{"no node's label", `spec: {` + volumeHead + `hostPath: {path: /a}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In, values: [a/b]}]}]}}}`,
			"spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]: Invalid value: \"a/b\": a valid label"},
		{"gluster", `spec: {` + volumeHead + `glusterfs: {endpoints: e, path: p, endpointsNamespace: ""}}`, "spec.glusterfs.endpointsNamespace: Invalid value: \"\": if the endpointnamespace is set"},
		{"rbd", `spec: {` + volumeHead + `rbd: {monitors: [], image: ""}}`, "spec.rbd.monitors: Required value\nspec.rbd.image: Required value"},
		{"azure", `spec: {` + volumeHead + `azureFile: {secretName: a, shareName: "", secretNamespace: ""}}`, "spec.azureFile.shareName: Required value\nspec.azureFile.secretNamespace: Required value"},
	})
	const path = `spec: {` + volumeHead + `hostPath: {path: /a}}`
	checkUpdates(t, "PersistentVolume", []change{
		{"same", path, path, ""},
		{"source", path, `spec: {` + volumeHead + `hostPath: {path: /b}}`, "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@ -2,7 +2,7 @@\n  \"GCEPersistentDisk\": null,\n" +
			"  \"AWSElasticBlockStore\": null,\n  \"HostPath\": {\n-  \"Path\": \"/a\",\n+  \"Path\": \"/b\",\n   \"Type\": \"\""},
		{"mode", path, `spec: {` + volumeHead + `volumeMode: Block, hostPath: {path: /a}}`, `volumeMode: Invalid value: "Block": field is immutable`},
		{"renamed label", `spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("failure-domain.beta.kubernetes.io/zone") + `}`,
			`spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("topology.kubernetes.io/zone") + `}`, ""},
		{"other label", `spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("a") + `}`, `spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("b") + `}`, "nodeAffinity: Invalid value"},
		{"renamed label of the system", `spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("beta.kubernetes.io/arch") + `}`,
			`spec: {` + volumeHead + `hostPath: {path: /a}, ` + affinity("kubernetes.io/arch") + `}`, ""},
	})
	checkWarnings(t, "PersistentVolume", `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: a, volume.beta.kubernetes.io/mount-options: b}},
		spec: {persistentVolumeReclaimPolicy: Recycle, rbd: {monitors: [m], image: i}, `+affinity("beta.kubernetes.io/os")+`}}`,
		`metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`,
		`metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead`,
		"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
		`spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead`,
		"spec.rbd: deprecated in v1.28, non-functional in v1.31+")
	checkRow(t, "PersistentVolume", `{metadata: {name: v}, spec: {accessModes: [ReadWriteMany, ReadWriteOnce], claimRef: {namespace: ns, name: c}, storageClassName: s}}`,
		"v|0|RWO,RWX|Retain|Pending|ns/c|s|<unset>||<unknown>|Filesystem")
}

func affinity(label string) string {
	return `nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: ` + label + `, operator: In, values: [x]}]}]}}`
}

// When a volume's phase changed is noted, unless the client says another time than it found.
func TestVolumePhaseTime(t *testing.T) {
	at := func(second int64) *metav1.Time { return new(metav1.Unix(second, 0)) }
	for _, c := range []struct {
		name  string
		phase corev1.PersistentVolumePhase
		sent  *metav1.Time
		want  *metav1.Time // nil: now
	}{
		{"nothing changes", corev1.VolumePending, at(1000), at(1000)},
		{"a client that doesn't know the time", corev1.VolumePending, nil, at(1000)},
		{"another time for the same phase", corev1.VolumePending, at(2000), at(2000)},
		{"another phase", corev1.VolumeBound, at(1000), nil},
		{"another phase, of a client that doesn't know the time", corev1.VolumeBound, nil, nil},
		{"another phase and its time", corev1.VolumeBound, at(2000), at(2000)},
	} {
		old := &corev1.PersistentVolume{Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: at(1000)}}
		v := &corev1.PersistentVolume{Status: corev1.PersistentVolumeStatus{Phase: c.phase, LastPhaseTransitionTime: c.sent}}
		prepareVolumeStatus(v, old)
		switch got := v.Status.LastPhaseTransitionTime; {
		case c.want != nil && !got.Equal(c.want):
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		case c.want == nil && (!got.After(at(3000).Time) || got.Nanosecond() != 0): // stored in seconds: what is sent back is what was noted
			t.Errorf("%s: %v, want now, in whole seconds", c.name, got)
		}
	}
}

func TestClaim(t *testing.T) {
	const head = `accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}`
	apitest.Check(t, Kinds(), "PersistentVolumeClaim", []apitest.Case{
		{"empty", `spec: {}`, "spec.accessModes: Required value: at least 1 access mode is required\nspec.resources[storage]: Required value"},
		{"ignored source", `spec: {` + head + `, dataSource: {kind: Foo, name: ""}}`, ""},
		{"a source beside another", `spec: {` + head + `, dataSource: {kind: Foo, name: x}, dataSourceRef: {kind: PersistentVolumeClaim, name: x}}`,
			"spec.dataSource: Invalid value: \"Foo\": must be 'PersistentVolumeClaim' when referencing the default apiGroup\nspec: Invalid value: {}: must match dataSourceRef"},
		{"two sources", `spec: {` + head + `, dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: b}}`, "spec: Invalid value: {}: must match dataSourceRef"},
	})
	bound := func(size, more string) string {
		return `{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: ` + size + `}}` + more + `}, status: {phase: Bound, capacity: {storage: 2Gi}}}`
	}
	checkUpdates(t, "PersistentVolumeClaim", []change{
		{"bind", `spec: {` + head + `}`, `spec: {` + head + `, volumeName: v}`, ""},
		{"default class", `spec: {` + head + `}`, `spec: {` + head + `, storageClassName: s}`, ""},
		{"class to field", `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: s}}, spec: {` + head + `}}`, `spec: {` + head + `, storageClassName: s}`, ""},
		{"another class", `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: s}}, spec: {` + head + `}}`, `spec: {` + head + `, storageClassName: x}`,
			"metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"\": field is immutable\nspec: Forbidden"},
		{"class and annotation", `{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: s}}, spec: {` + head + `}}`,
			`{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: s}}, spec: {` + head + `, storageClassName: s}}`, ""},
		{"a group that was accepted once", `spec: {` + head + `, dataSource: {apiGroup: A_b, kind: Foo, name: x}, dataSourceRef: {apiGroup: A_b, kind: Foo, name: x}}`,
			`spec: {` + head + `, dataSource: {apiGroup: A_b, kind: Foo, name: x}, dataSourceRef: {apiGroup: A_b, kind: Foo, name: x}, volumeName: v}`, ""},
		{"size of a pending one", `spec: {` + head + `}`, strings.Replace(`spec: {`+head+`}`, "2Gi", "3Gi", 1),
			"spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -6,7 +6,7 @@\n  \"Resources\": {"},
		{"grow", bound("2Gi", ""), bound("3Gi", ""), ""},
		{"take back", bound("5Gi", ""), bound("3Gi", ""), ""},
		{"shrink", bound("5Gi", ""), bound("2Gi", ""), "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		{"attributes class", bound("2Gi", ", volumeAttributesClassName: a"), bound("2Gi", ", volumeAttributesClassName: b"), ""},
	})
	checkRow(t, "PersistentVolumeClaim", `{metadata: {name: c}, spec: {volumeName: v, `+head+`}}`, "c|Pending|v|0|||<unset>|<unknown>|Filesystem")
	k, c := apitest.Kind(t, Kinds(), "PersistentVolumeClaim"), apitest.Catalogue(t, Kinds())
	s := apitest.Read(t, c, k, `{spec: {`+head+`}, status: {capacity: {storage: -1}, allocatedResources: {cpu: 1}, allocatedResourceStatuses: {storage: Odd}}}`)
	checkLines(t, apitest.Text(k.ValidateStatusUpdate(s, s)), "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity\nstatus.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\"\nstatus.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"")
}

func TestQuota(t *testing.T) {
	apitest.Check(t, Kinds(), "ResourceQuota", []apitest.Case{
		{"plain", `spec: {hard: {pods: 1, count/a.b: 2, requests.example.com/gpu: 1}}`, ""},
		{"names", `spec: {hard: {foo: 1, pods: 500m}}`, "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified\nspec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota\nspec.hard[pods]: Invalid value: \"500m\": must be an integer"},
		{"scopes", `spec: {scopes: [BestEffort, NotBestEffort], hard: {requests.cpu: 1}}`, `spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: unsupported scope applied to resource` + "\nconflicting scopes"},
		{"unknown scope", `spec: {scopes: [Foo, Terminating], hard: {configmaps: 1}}`, "unsupported scope\nunsupported scope applied to resource"},
		{"no values", `spec: {scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}]}}`, "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"},
		{"selector", `spec: {scopeSelector: {matchExpressions: [{scopeName: BestEffort, operator: In, values: [x]}, {scopeName: Foo, operator: Bar}]}}`,
			"spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of\nspec.scopeSelector.matchExpressions.scopeName: Invalid value: \"Foo\": unsupported scope\nspec.scopeSelector.matchExpressions.operator: Invalid value: \"Bar\": not a valid selector operator"},
	})
	checkUpdates(t, "ResourceQuota", []change{
		{"order of scopes", `spec: {scopes: [BestEffort, Terminating]}`, `spec: {scopes: [Terminating, BestEffort]}`, ""},
		{"scopes", `spec: {}`, `spec: {scopes: [Terminating]}`, `spec.scopes: Invalid value: ["Terminating"]: field is immutable`},
	})
}

func TestLimitRange(t *testing.T) {
	apitest.Check(t, Kinds(), "LimitRange", []apitest.Case{
		{"min over max", `spec: {limits: [{type: Container, max: {cpu: 1}, min: {cpu: 2}}]}`, `spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1` +
			"\nspec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1\nspec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1"},
		{"pod", `spec: {limits: [{type: Pod, default: {cpu: 1}, defaultRequest: {cpu: 2}}, {type: Pod}]}`, "spec.limits[0].default: Forbidden\nspec.limits[0].defaultRequest: Forbidden\nspec.limits[1].type: Duplicate value: \"Pod\""},
		{"claim", `spec: {limits: [{type: PersistentVolumeClaim}]}`, "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"},
		{"names", `spec: {limits: [{type: foo, max: {cpu: 1}}, {type: Pod, max: {bogus: 1}}]}`,
			"spec.limits[0].type: Invalid value: \"foo\": must be a standard limit type or fully qualified\nspec.limits[1].max[bogus]: Invalid value: \"bogus\": must be a standard resource type\nspec.limits[1].max[bogus]: Invalid value: \"bogus\": must be a standard resource for containers"},
		{"ratio", `spec: {limits: [{type: Pod, max: {cpu: 1}, min: {cpu: 500m}, maxLimitRequestRatio: {cpu: 3}}]}`, `spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000`},
		{"not overcommitted", `spec: {limits: [{type: Container, default: {example.com/gpu: 2}, defaultRequest: {example.com/gpu: 1}}]}`, "default value 2 must equal to defaultRequest value 1 in example.com/gpu"},
	})
	checkUpdates(t, "LimitRange", []change{{"wrong now", `{}`, `spec: {limits: [{type: foo}]}`, "spec.limits[0].type"}})
}

// TestDataSources: the old and the new name of a claim's source agree after any change, unless the source is in another namespace.
func TestDataSources(t *testing.T) {
	word := rapid.SampledFrom([]string{"", "PersistentVolumeClaim", "VolumeSnapshot", "Foo"})
	group := rapid.Ptr(rapid.SampledFrom([]string{"", "snapshot.storage.k8s.io", "example.com"}), true)
	rapid.Check(t, func(t *rapid.T) {
		s := &corev1.PersistentVolumeClaimSpec{}
		if rapid.Bool().Draw(t, "old name") {
			s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: group.Draw(t, "group"), Kind: word.Draw(t, "kind"), Name: "x"}
		}
		if rapid.Bool().Draw(t, "new name") {
			s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: group.Draw(t, "group"), Kind: word.Draw(t, "kind"), Name: "x", Namespace: rapid.Ptr(rapid.Just("n"), true).Draw(t, "namespace")}
		}
		prepareDataSources(s, nil)
		if (s.DataSource == nil) != (s.DataSourceRef == nil) {
			t.Fatalf("%+v %+v", s.DataSource, s.DataSourceRef)
		}
		again := s.DeepCopy()
		prepareDataSources(again, s)
		if (again.DataSource == nil) != (s.DataSource == nil) {
			t.Fatal("an update that changed nothing did")
		}
	})
}
