package core

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
)

func TestConfigMap(t *testing.T) {
	apitest.Check(t, Kinds(), "ConfigMap", []apitest.Case{
		{"empty", `metadata: {name: a}`, ""},
		{"keys", `{data: {"a b": x, ok: y}, binaryData: {"..": AAAA}}`, "data[a b]: Invalid value\nbinaryData[..]: Invalid value"},
		{"twice", `{data: {a: x}, binaryData: {a: AAAA}}`, `data[a]: Invalid value: "a": duplicate of key present in binaryData`},
		{"too large", `data: {a: ` + strings.Repeat("x", maxDataBytes+1) + `}`, "Too long: may not be more than 1048576 bytes"},
	})
	checkUpdates(t, "ConfigMap", []change{
		{"frozen", `{immutable: true, data: {a: b}, binaryData: {c: AAAA}}`, `{data: {a: x}}`, "immutable: Forbidden: field is immutable when `immutable` is set\n" +
			"data: Forbidden: field is immutable when `immutable` is set\nbinaryData: Forbidden: field is immutable when `immutable` is set"},
		{"labels of a frozen one", `{immutable: true, data: {a: b}}`, `{metadata: {labels: {x: y}}, immutable: true, data: {a: b}}`, ""},
	})
}

func TestSecret(t *testing.T) {
	apitest.Check(t, Kinds(), "Secret", []apitest.Case{
		{"opaque", `stringData: {a: b}`, ""},
		{"token", `type: kubernetes.io/service-account-token`, "metadata.annotations[kubernetes.io/service-account.name]: Required value"},
		{"docker", `{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: "{a}"}}`,
			`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character 'a' looking for beginning of object key string`},
		{"docker without", `type: kubernetes.io/dockercfg`, "data[.dockercfg]: Required value"},
		{"user or password", `{type: kubernetes.io/basic-auth, stringData: {password: x}}`, ""},
		{"neither", `type: kubernetes.io/basic-auth`, "data[username]: Required value\ndata[password]: Required value"},
		{"ssh", `type: kubernetes.io/ssh-auth`, "data[ssh-privatekey]: Required value"},
		{"tls", `type: kubernetes.io/tls`, "data[tls.crt]: Required value\ndata[tls.key]: Required value"},
	})
	checkUpdates(t, "Secret", []change{{"type", `type: a`, `type: b`, `type: Invalid value: "b": field is immutable`}})
	checkWarnings(t, "Secret", `{type: kubernetes.io/tls, stringData: {tls.crt: c, tls.key: k}}`, "tls: failed to find any PEM data in certificate input")
}

func TestServiceAccount(t *testing.T) {
	const old = `metadata: {annotations: {kubernetes.io/enforce-mountable-secrets: "true"}}`
	checkWarnings(t, "ServiceAccount", old, "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets")
	k, c := apitest.Kind(t, Kinds(), "ServiceAccount"), apitest.Catalogue(t, Kinds())
	had := apitest.Read(t, c, k, old)
	if w := k.Warnings(had, had); len(w) > 0 {
		t.Errorf("warned again: %q", w)
	}
	obj, _ := apitest.Create(t, c, k, `secrets: [{name: a, namespace: other, kind: Secret}]`)
	if got := obj.(*corev1.ServiceAccount).Secrets[0]; got != (corev1.ObjectReference{Name: "a"}) {
		t.Errorf("kept %+v", got)
	}
}

func TestNamespace(t *testing.T) {
	apitest.Check(t, Kinds(), "Namespace", []apitest.Case{
		{"plain", `metadata: {name: a}`, ""},
		{"finalizers", `spec: {finalizers: [bad, example.com/x, orphan]}`, `spec.finalizers: Invalid value: "bad": name is neither a standard finalizer name nor is it fully qualified`},
	})
	k, c := apitest.Kind(t, Kinds(), "Namespace"), apitest.Catalogue(t, Kinds())
	n := apitest.Read(t, c, k, `metadata: {generateName: a-}`).(*corev1.Namespace)
	n.Name = "a-x"
	if k.Canonicalize(n); n.Labels[corev1.LabelMetadataName] != "a-x" {
		t.Errorf("labels %v", n.Labels)
	}
	n.Status.Phase = corev1.NamespaceTerminating
	if got := apitest.Text(k.ValidateStatusUpdate(n, n)); got != "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty" {
		t.Error(got)
	}
}

func TestNode(t *testing.T) {
	apitest.Check(t, Kinds(), "Node", []apitest.Case{
		{"taints", `spec: {taints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}, {key: "", effect: X}]}`,
			`metadata.taints[1]: Duplicate value: {"Key":"a","Value":"b","Effect":"NoSchedule","TimeAdded":null}: taints must be unique by key and effect pair` +
				"\nmetadata.taints[2].key: Invalid value: \"\": name part must be non-empty\nmetadata.taints[2].key: Invalid value: \"\": name part must consist" +
				"\nmetadata.taints[2].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\""},
		{"ranges", `spec: {podCIDRs: [1.2.3.0/24, 1.2.4.0/24]}`, "spec.podCIDRs: Invalid value: [\"1.2.3.0/24\",\"1.2.4.0/24\"]: may specify no more than one CIDR for each IP family"},
		{"no range", `spec: {podCIDR: x}`, "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value"},
		{"negative", `status: {capacity: {cpu: -1}}`, `status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0` + "\nstatus.allocatable.cpu: Invalid value"},
		{"features", `status: {declaredFeatures: [A, B/c, b, b]}`, `status.declaredFeatures[2]: Invalid value: "b": invalid feature name "b"` +
			"\nstatus.declaredFeatures[3]: Duplicate value: \"b\"\nstatus.declaredFeatures[3]: Invalid value: \"b\": invalid feature name"},
		{"features without order", `status: {declaredFeatures: [B, A]}`, `status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically`},
		{"old taints", `metadata: {annotations: {scheduler.alpha.kubernetes.io/taints: "x"}}`, "metadata.annotations: Invalid value: \"scheduler.alpha.kubernetes.io/taints\": invalid character"},
		{"avoided pods", `metadata: {annotations: {scheduler.alpha.kubernetes.io/preferAvoidPods: '{"preferAvoidPods": [{"podSignature": {}}]}'}}`,
			"metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[0].PodSignature: Required value"},
	})
	checkUpdates(t, "Node", []change{
		{"range", `spec: {podCIDR: 1.2.3.0/24}`, `spec: {podCIDR: 1.2.4.0/24}`, `spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`},
		{"provider", `spec: {providerID: a}`, `spec: {providerID: b}`, `spec.providerID: Invalid value: null: field cannot be modified once set`},
		{"external id", `{}`, `spec: {externalID: b}`, `spec.externalID: Forbidden: may not be updated`},
		{"addresses", `{}`, `status: {addresses: [{type: A, address: b}, {type: A, address: b}]}`, `status.addresses[1]: Duplicate value: {"Type":"A","Address":"b"}`},
	})
	checkRow(t, "Node", `{metadata: {name: node, labels: {node-role.kubernetes.io/x: "", kubernetes.io/role: z}}, spec: {unschedulable: true},
		status: {nodeInfo: {kernelVersion: "6.1", architecture: amd64}, conditions: [{type: Ready, status: "True"}]}}`,
		"node|Ready,SchedulingDisabled|x,z|<unknown>||<none>|<none>|<unknown>|6.1 (amd64)|<unknown>")
	k, c := apitest.Kind(t, Kinds(), "Node"), apitest.Catalogue(t, Kinds())
	n, _ := apitest.Create(t, c, k, `spec: {podCIDR: 1.2.3.0/24, podCIDRs: [1.2.4.0/24], configSource: {configMap: {name: a}}}`)
	if s := n.(*corev1.Node).Spec; s.PodCIDRs[0] != "1.2.3.0/24" || s.ConfigSource != nil {
		t.Errorf("spec %+v", s)
	}
}

// TestNodeDetails: amounts and names that only v1.37 looks at.
func TestNodeDetails(t *testing.T) {
	apitest.Check(t, Kinds(), "Node", []apitest.Case{
		{"no swap", "metadata: {name: a}\nstatus: {nodeInfo: {swap: {capacity: 0}}}", "metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero"},
		{"three networks, one of them none", "metadata: {name: a}\nspec: {podCIDRs: [10.0.0.0/24, 'fd00::/64', ten]}",
			"spec.podCIDRs[2]: Invalid value\nspec.podCIDRs: Internal error: invalid PodCIDRs\nmay specify no more than one CIDR for each IP family"},
		{"a long feature", "metadata: {name: a}\nstatus: {declaredFeatures: [A" + strings.Repeat("a", 253) + "]}", "must be no more than 253 characters"},
	})
	apitest.CheckChanges(t, Kinds(), "Node", "", []apitest.Change{
		{"no provider any more", "spec: {providerID: a}", "{}", "spec.providerID: Invalid value: null: field cannot be cleared once set"},
	})
	c := apitest.Catalogue(t, Kinds())
	n := apitest.Read(t, c, apitest.Kind(t, c.Kinds(), "Node"), "status: {capacity: {cpu: 1}, allocatable: {}}").(*corev1.Node)
	if len(n.Status.Allocatable) != 1 {
		t.Errorf("allocatable %v", n.Status.Allocatable)
	}
	l, _ := apitest.Create(t, c, apitest.Kind(t, c.Kinds(), "LimitRange"), "spec: {limits: []}")
	if l.GetName() == "" {
		t.Error("a limit range without a name gets none")
	}
}

func TestEvent(t *testing.T) {
	k, c := apitest.Kind(t, Kinds(), "Event"), apitest.Catalogue(t, Kinds())
	for _, x := range []struct{ name, doc, told string }{
		{"old", `{metadata: {namespace: ns}, involvedObject: {namespace: ns}}`, ""},
		{"elsewhere", `{metadata: {namespace: ns}, involvedObject: {namespace: o}}`, `involvedObject.namespace: Invalid value: "o": does not match event.namespace`},
		{"no namespace", `{metadata: {namespace: default}}`, ""},
		{"old in kube-system", `{metadata: {namespace: kube-system}}`, `involvedObject.namespace: Invalid value: "": does not match event.namespace`},
		{"new in kube-system", `{metadata: {namespace: kube-system}, eventTime: "2024-01-02T03:04:05.123456Z", reportingComponent: a, reportingInstance: b, action: c, reason: d}`, ""},
		{"new", `{metadata: {namespace: default}, eventTime: "2024-01-02T03:04:05.123456Z", reportingComponent: a, reason: ` + strings.Repeat("r", 129) + `}`,
			"reportingInstance: Required value\naction: Required value\nreason: Invalid value: \"\": can have at most 128 characters"},
	} {
		obj := apitest.Read(t, c, k, x.doc)
		if got := apitest.Text(k.Versions[0].Validate(obj, nil)); got != x.told {
			t.Errorf("%s: %s", x.name, got)
		}
	}
	checkRow(t, "Event", `{metadata: {name: e}, involvedObject: {kind: Pod}, reportingComponent: c, reportingInstance: i, message: " m "}`,
		"<unknown>|||pod||c, i|m|<unknown>|1|e")
}

func TestEndpoints(t *testing.T) {
	apitest.Check(t, Kinds(), "Endpoints", []apitest.Case{
		{"none", `subsets: [{ports: [{port: 80}]}]`, "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"},
		{"order", `subsets: [{addresses: [{ip: x, hostname: A_B, nodeName: C_D}]}]`, "subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g.\n" +
			"subsets[0].addresses[0].hostname\nsubsets[0].addresses[0].nodeName\nsubsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP address"},
		{"special", `subsets: [{addresses: [{ip: 127.0.0.1}, {ip: 224.0.0.1}]}]`, "may not be in the loopback range\nmay not be in the link-local multicast range"},
		{"ports", `subsets: [{addresses: [{ip: 1.1.1.1}], ports: [{port: 0, protocol: X}, {name: b, port: 80}]}]`,
			"subsets[0].ports[0].name: Required value\nsubsets[0].ports[0].port: Invalid value: 0\nsubsets[0].ports[0].protocol: Unsupported value"},
	})
	const bad = `subsets: [{addresses: [{ip: 127.0.0.1}]}]`
	checkUpdates(t, "Endpoints", []change{{"bad before", bad, bad, ""}, {"bad now", `{}`, bad, "loopback"}})
	checkRow(t, "Endpoints", `{metadata: {name: e}, subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 1}, {port: 2}]}]}`,
		"e|1.1.1.1:1,1.1.1.2:1,1.1.1.1:2 + 1 more...|<unknown>")
}

func TestReplicationController(t *testing.T) {
	const template = `template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}`
	apitest.Check(t, Kinds(), "ReplicationController", []apitest.Case{
		{"defaults", `spec: {` + template + `}`, ""},
		{"empty", `spec: {}`, "spec.selector: Required value\nspec.template: Required value"},
		{"numbers", `spec: {replicas: -1, minReadySeconds: -1, selector: {a: c}, ` + template + `}`,
			"spec.replicas: Invalid value: -1\nspec.minReadySeconds: Invalid value: -1\nspec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"},
	})
	checkRow(t, "ReplicationController", `{metadata: {name: r}, spec: {`+template+`}}`, "r|1|0|0|<unknown>|c|i|a=b")
	checkWarnings(t, "ReplicationController", `{metadata: {name: a.b}, spec: {`+template+`}}`, "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]")
}

func TestPodAndNodeWarnings(t *testing.T) {
	checkWarnings(t, "Pod", `{metadata: {name: a.b}, spec: {containers: [{name: c, image: i}]}}`,
		"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]")
	checkWarnings(t, "Pod", `{metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}`)
	checkWarnings(t, "Node", `{metadata: {name: n}, spec: {externalID: x, podCIDRs: ["2001:DB8::/64", 10.0.0.0/24]}}`,
		"spec.externalID: this field is deprecated, and is unused by Kubernetes",
		`spec.podCIDRs[0]: IPv6 CIDR value "2001:DB8::/64" should be in RFC 5952 canonical format ("2001:db8::/64")`)
}

func TestPodTemplate(t *testing.T) {
	checkUpdates(t, "PodTemplate", []change{
		{"no containers", `template: {spec: {containers: [{name: c, image: i}]}}`, `template: {spec: {containers: []}}`, "template.spec.containers: Required value"},
	})
}

// TestDefaultsTwice: filling in defaults twice is filling them in once, whatever there is.
func TestDefaultsTwice(t *testing.T) {
	for _, k := range Kinds() {
		if k.Default == nil {
			continue
		}
		t.Run(k.Kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				obj := k.HubVersion().New()
				randfill.NewWithSeed(rapid.Int64().Draw(t, "seed")).NilChance(0.5).NumElements(0, 2).MaxDepth(12).Fill(obj)
				once := obj.(api.Object)
				k.Default(once)
				twice := once.DeepCopyObject().(api.Object)
				k.Default(twice)
				if !apiequality.Semantic.DeepEqual(once, twice) {
					t.Fatalf("once %+v\ntwice %+v", once, twice)
				}
			})
		})
	}
}

// change is a name, an object before and after, and what is said about it: a part of each complaint, one a line.
type change struct{ name, before, after, told string }

func checkUpdates(t *testing.T, kind string, changes []change) {
	t.Helper()
	k, c := apitest.Kind(t, Kinds(), kind), apitest.Catalogue(t, Kinds())
	for _, x := range changes {
		t.Run(x.name, func(t *testing.T) {
			got := apitest.Text(k.ValidateUpdate(apitest.Read(t, c, k, x.after), apitest.Read(t, c, k, x.before)))
			checkLines(t, got, x.told)
		})
	}
}

func checkLines(t *testing.T, got, told string) {
	t.Helper()
	if told == "" && got == "" {
		return
	}
	lines, want := strings.Split(got, "\n"), strings.Split(told, "\n")
	if len(lines) < len(want) || told == "" {
		t.Fatalf("complaints:\n%s\nwant:\n%s", got, told)
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) {
			t.Errorf("complaint %q, want %q", lines[i], want[i])
		}
	}
}

func checkWarnings(t *testing.T, kind, doc string, want ...string) {
	t.Helper()
	k, c := apitest.Kind(t, Kinds(), kind), apitest.Catalogue(t, Kinds())
	if got := k.Warnings(apitest.Read(t, c, k, doc), nil); !apiequality.Semantic.DeepEqual(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func checkRow(t *testing.T, kind, doc, want string) {
	t.Helper()
	k, c := apitest.Kind(t, Kinds(), kind), apitest.Catalogue(t, Kinds())
	if got := apitest.Row(k, apitest.Read(t, c, k, doc), time.Now()); got != want {
		t.Errorf("row  %s\nwant %s", got, want)
	}
}
