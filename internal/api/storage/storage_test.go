package storage_test

import (
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/storage"
)

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
	})
	c := apitest.Catalogue(t, storage.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StorageClass")
	old := apitest.Read(t, c, k, "metadata: {name: a, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: a.b/c").(*storagev1.StorageClass)
	if got := apitest.Row(k, old, time.Now()); got != "a (default)|a.b/c|Delete|Immediate|false|<unknown>" {
		t.Error(got)
	}
	s := old.DeepCopy()
	expand := true
	s.AllowVolumeExpansion = &expand
	if got := apitest.Text(k.ValidateUpdate(s, old)); got != "" {
		t.Error(got)
	}
	s.Provisioner, s.Parameters = "x", map[string]string{"a": "b"}
	if got := apitest.Text(k.ValidateUpdate(s, old)); got != "parameters: Invalid value: {\"a\":\"b\"}: field is immutable\nprovisioner: Invalid value: \"x\": field is immutable" {
		t.Error(got)
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
