package storage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/storage"
)

// many are so many parameters.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: v, ", i)
	}
	return b.String()
}

func TestStorageClass(t *testing.T) {
	apitest.Check(t, storage.Kinds(), "StorageClass", []apitest.Case{
		{"minimal", "provisioner: a.b/c", ""},
		{"upper case", "provisioner: A.b/C", ""},
		{"nobody", "parameters: {a: b}", "provisioner: Required value"},
		{"no parameter", "provisioner: a.b/c\nparameters: {'': b}", "parameters: Invalid value: \"\": field can not be empty."},
		{"policies", "provisioner: a.b/c\nreclaimPolicy: Recycle\nvolumeBindingMode: Later", "reclaimPolicy: Unsupported value: \"Recycle\"\nvolumeBindingMode: Unsupported value: \"Later\""},
		{"topology", "provisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, a]}, {key: zone, values: []}]}]",
			"values[1]: Duplicate value: \"a\"\nvalues: Required value\nkey: Duplicate value: \"zone\""},
		{"topology twice", "provisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}, {matchLabelExpressions: [{key: zone, values: [a]}]}]",
			"allowedTopologies[1].matchLabelExpressions: Duplicate value"},
		{"topology in another order", "provisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a, b]}, {key: rack, values: [c]}]}, {matchLabelExpressions: [{key: rack, values: [c]}, {key: zone, values: [b, a]}]}]",
			"allowedTopologies[1].matchLabelExpressions: Duplicate value"},
		{"other topologies", "provisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: zone, values: [a]}]}, {matchLabelExpressions: [{key: zone, values: [b]}]}]", ""},
		{"an empty topology", "provisioner: a.b/c\nallowedTopologies: [{}]", "allowedTopologies[0].matchLabelExpressions: Duplicate value"},
		{"a bad key twice", "provisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: '-', values: [a]}, {key: '-', values: [b]}]}]",
			"matchLabelExpressions[0].key: Invalid value\nmatchLabelExpressions[1].key: Invalid value\nmatchLabelExpressions[1].key: Duplicate value"},
		{"no reclaim policy", "provisioner: a.b/c\nreclaimPolicy: ''", ""},
		{"too many parameters", "provisioner: a.b/c\nparameters: {'': x, " + many(513) + "}", "parameters: Too long: may not be more than 512 bytes"},
	})
	c := apitest.Catalogue(t, storage.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StorageClass")
	old := apitest.Read(t, c, k, "metadata: {name: a, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: a.b/c").(*storagev1.StorageClass)
	if got := apitest.Row(k, old, time.Now()); got != "a|a.b/c|Delete|Immediate|false|<unknown>" { // it takes a list to know the default
		t.Error(got)
	}
	s := old.DeepCopy()
	expand := true
	s.AllowVolumeExpansion = &expand
	if got := apitest.Text(k.ValidateUpdate(s, old)); got != "" {
		t.Error(got)
	}
	s.Provisioner, s.Parameters = "x", map[string]string{"a": "b"}
	if got := apitest.Text(k.ValidateUpdate(s, old)); got != "provisioner: Invalid value: null: field is immutable\nparameters: Invalid value: null: field is immutable" {
		t.Error(got)
	}
}

// In a list the class is marked that claims get: the newest of those that say they are the default, else the first by name.
func TestDefaultInList(t *testing.T) {
	k := apitest.Kind(t, apitest.Catalogue(t, storage.Kinds()).Kinds(), "StorageClass")
	const ga, beta = "storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"
	class := func(name string, second int, annotations ...string) api.Object {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(second), 0), Annotations: map[string]string{}}}
		for _, a := range annotations {
			c.Annotations[a] = "true"
		}
		return c
	}
	for _, tt := range []struct {
		name string
		list []api.Object
		want string
	}{
		{"none", []api.Object{class("a", 1), class("b", 2)}, "a b"},
		{"one", []api.Object{class("a", 1), class("b", 1, ga)}, "a b (default)"},
		{"the newest", []api.Object{class("a", 1, ga), class("b", 3, ga), class("c", 2, ga)}, "a b (default) c"},
		{"the first of equally old ones", []api.Object{class("b", 1, ga), class("a", 1, beta)}, "b a (default)"},
	} {
		row := k.ListRow(slices.Values(tt.list))
		var got []string
		for _, c := range tt.list {
			got = append(got, row(c, time.Now())[0].(string))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestOthers(t *testing.T) {
	apitest.Check(t, storage.Kinds(), "CSIDriver", []apitest.Case{
		{"minimal", "metadata: {name: a.b}\nspec: {}", ""},
		{"modes", "metadata: {name: a.b}\nspec: {volumeLifecycleModes: [Forever]}", "spec.volumeLifecycleModes: Unsupported value: \"Forever\""},
		{"tokens", "metadata: {name: a.b}\nspec: {tokenRequests: [{audience: a, expirationSeconds: 5}, {audience: a}]}", "may not specify a duration less than 10 minutes\nDuplicate value: \"a\""},
	})
	apitest.Check(t, storage.Kinds(), "CSIDriver", []apitest.Case{
		{"tokens in secrets", "metadata: {name: a.b}\nspec: {serviceAccountTokenInSecrets: true, tokenRequests: [{audience: a}]}", ""},
		{"no tokens in secrets", "metadata: {name: a.b}\nspec: {serviceAccountTokenInSecrets: false}", "spec.serviceAccountTokenInSecrets: Invalid value: false"},
	})
	apitest.Check(t, storage.Kinds(), "CSINode", []apitest.Case{
		{"minimal", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n1}]}", ""},
		{"twice", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n1}, {name: a.b, nodeID: n1}]}", "Duplicate value: \"a.b\""},
		{"no node", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: ''}]}", "nodeID: Required value"},
		{"an empty key", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n, topologyKeys: ['', '']}]}",
			"spec.drivers[0]: Required value\nname part must be non-empty\nname part must consist of\nspec.drivers[0]: Required value\nspec.drivers[0]: Duplicate value: \"\"\nname part must be non-empty\nname part must consist of"},
	})
	apitest.CheckChanges(t, storage.Kinds(), "CSINode", "", []apitest.Change{
		{"another node", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n1}]}", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n2, allocatable: {count: -1}}]}",
			"allocatable.count: Invalid value: -1\nspec.drivers: Invalid value: {\"Name\":\"a.b\",\"NodeID\":\"n2\",\"TopologyKeys\":null,\"Allocatable\":null}: field is immutable"},
		{"more volumes", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n1}]}", "metadata: {name: a}\nspec: {drivers: [{name: a.b, nodeID: n1, allocatable: {count: 1}}]}", ""},
	})
	inline := func(s string) string {
		return "metadata: {name: a}\nspec: {attacher: a.b, nodeName: n1, source: {inlineVolumeSpec: {" + s + "}}}"
	}
	const csi = "accessModes: [ReadWriteOnce], csi: {driver: a.b, volumeHandle: h}"
	apitest.Check(t, storage.Kinds(), "VolumeAttachment", []apitest.Case{
		{"inline", inline(csi + ", persistentVolumeReclaimPolicy: Retain, volumeMode: Filesystem"), ""},
		{"inline, with a class of attributes", inline(csi + ", volumeAttributesClassName: ''"), ""},
		{"inline, with the defaults of its source", inline("accessModes: [ReadWriteOnce], azureDisk: {diskName: d, diskURI: /d}"),
			"inlineVolumeSpec.csi: Required value\nspec.source.inlineVolumeSpec.azureDisk.diskURI: Unsupported value: \"/d\""},
		{"inline, nothing", inline(""), "source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes\ninlineVolumeSpec.accessModes: Required value\nspec.source.inlineVolumeSpec: Required value: must specify a volume type"},
		{"inline, with all that a claim looks for", inline(csi + ", capacity: {storage: 1Gi}, claimRef: {name: c}, storageClassName: s, nodeAffinity: {}, volumeMode: Block, persistentVolumeReclaimPolicy: Delete"),
			"inlineVolumeSpec.claimRef: Forbidden: may not be specified in the context of inline volumes\ncapacity: Forbidden\npersistentVolumeReclaimPolicy: Forbidden: may only be Retain in the context of inline volumes\n" +
				"nodeAffinity: Forbidden\nstorageClassName: Forbidden\nvolumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes"},
		{"inline, of two sorts", inline(csi + ", hostPath: {path: /a}"), "inlineVolumeSpec.csi: Forbidden: may not specify more than 1 volume type"},
		{"inline, a driver", inline("accessModes: [Sometimes], csi: {driver: A_B}"), "accessModes: Unsupported value\ncsi.driver: Invalid value\ncsi.volumeHandle: Required value"},
		{"no node", "metadata: {name: a}\nspec: {attacher: a.b, source: {persistentVolumeName: ''}}",
			"spec.source.persistentVolumeName: Required value: must specify non empty\nspec.nodeName: Invalid value\nspec.source.persistentVolumeName: Invalid value"},
	})
	const attached = "metadata: {name: a}\nspec: {attacher: a.b, nodeName: n1, source: {persistentVolumeName: v}}\n"
	apitest.CheckChanges(t, storage.Kinds(), "VolumeAttachment", "status", []apitest.Change{
		{"attached", attached, attached + "status: {attached: true, attachmentMetadata: {a: b}, attachError: {message: m, errorCode: 8}}", ""},
		{"a long message", attached, attached + "status: {detachError: {message: " + strings.Repeat("x", 1025) + "}}", "status.detachError.message: Too long: may not be more than 262144 bytes"},
		{"a negative code", attached, attached + "status: {attachError: {errorCode: -1}}", "status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"},
	})
	apitest.CheckChanges(t, storage.Kinds(), "VolumeAttachment", "", []apitest.Change{
		{"another attacher", attached, strings.Replace(attached, "a.b", "A_B", 1), "spec.attacher: Invalid value\nspec: Invalid value: null: field is immutable"},
	})
	apitest.CheckChanges(t, storage.Kinds(), "VolumeAttributesClass", "", []apitest.Change{
		{"no parameters any more", "metadata: {name: a}\ndriverName: a.b\nparameters: {a: b}", "metadata: {name: a}\ndriverName: ''",
			"driverName: Forbidden: updates to driverName are forbidden.\nparameters: Forbidden: updates to parameters are forbidden.\ndriverName: Required value\nparameters: Required value"},
	})
	apitest.Check(t, storage.Kinds(), "VolumeAttachment", []apitest.Case{
		{"minimal", "metadata: {name: a}\nspec: {attacher: a.b, nodeName: n1, source: {persistentVolumeName: v}}", ""},
		{"no source", "metadata: {name: a}\nspec: {attacher: a.b, nodeName: n1, source: {}}", "spec.source: Required value"},
	})
	apitest.Check(t, storage.Kinds(), "CSIStorageCapacity", []apitest.Case{
		{"minimal", "storageClassName: a\ncapacity: 1Gi", ""},
		{"negative", "storageClassName: a\ncapacity: -1", "capacity: Invalid value: \"-1\""},
	})
	apitest.Check(t, storage.Kinds(), "VolumeAttributesClass", []apitest.Case{
		{"minimal", "driverName: a.b\nparameters: {a: b}", ""},
		{"no parameters", "driverName: a.b", "parameters: Required value: must contain at least one key/value pair"},
	})
}

// TestOldNodeLabels: what names labels that nodes no longer have works, and is warned of.
func TestOldNodeLabels(t *testing.T) {
	c := apitest.Catalogue(t, storage.Kinds())
	for kind, tt := range map[string]struct{ doc, want string }{
		"StorageClass": {
			"metadata: {name: a}\nprovisioner: a.b/c\nallowedTopologies: [{matchLabelExpressions: [{key: a, values: [b]}, {key: failure-domain.beta.kubernetes.io/zone, values: [z]}]}]",
			`allowedTopologies[0].matchLabelExpressions[1].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
		},
		"CSIStorageCapacity": {
			"storageClassName: a\nnodeTopology: {matchLabels: {beta.kubernetes.io/os: linux}, matchExpressions: [{key: beta.kubernetes.io/arch, operator: Exists}]}",
			`nodeTopology.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead|` +
				`nodeTopology.matchLabels.beta.kubernetes.io/os: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead`,
		},
	} {
		k := apitest.Kind(t, c.Kinds(), kind)
		if got := strings.Join(k.Warnings(apitest.Read(t, c, k, tt.doc), nil), "|"); got != tt.want {
			t.Errorf("%s: got  %s\nwant %s", kind, got, tt.want)
		}
	}
}

// TestTokensInAttributes: a driver that asks for tokens is told where they show, when it begins to ask.
func TestTokensInAttributes(t *testing.T) {
	c := apitest.Catalogue(t, storage.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CSIDriver")
	plain := apitest.Read(t, c, k, "metadata: {name: a.e.com}")
	asks := apitest.Read(t, c, k, "metadata: {name: a.e.com}\nspec: {tokenRequests: [{audience: a}]}")
	quiet := apitest.Read(t, c, k, "metadata: {name: a.e.com}\nspec: {tokenRequests: [{audience: a}], serviceAccountTokenInSecrets: true}")
	for name, x := range map[string]struct {
		obj, old api.Object
		told     int
	}{
		"new": {asks, nil, 1}, "plain": {plain, nil, 0}, "says where": {quiet, nil, 0}, "begins": {asks, plain, 1}, "goes on": {asks, asks, 0},
	} {
		if got := k.Warnings(x.obj, x.old); len(got) != x.told {
			t.Errorf("%s: %q", name, got)
		}
	}
}
