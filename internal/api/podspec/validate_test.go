package podspec

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// complaints defaults and validates a spec and returns what is wrong, one line each.
func complaints(t *testing.T, spec string, opts Options) []string {
	t.Helper()
	pod := &corev1.Pod{Spec: *decode[corev1.PodSpec](t, spec)}
	SetPodDefaults(pod)
	SetPodLevelResources(pod)
	var out []string
	p := field.NewPath("spec")
	for _, e := range append(ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, p, opts), ValidatePodOnly(&pod.Spec, p)...) {
		out = append(out, e.Error())
	}
	return out
}

// check runs cases whose specs have the given containers where they have none.
func runCases(t *testing.T, cases []specCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			spec := c.spec
			if !strings.Contains(spec, `"containers"`) {
				spec = `{"containers":[{"name":"c","image":"i"}],` + strings.TrimPrefix(spec, "{")
			}
			if got := complaints(t, spec, c.opts); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

type specCase struct {
	name string
	spec string
	opts Options
	want []string
}

const (
	badLabel     = `a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`
	badSubdomain = `a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`
	badValue     = `a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`
)

func TestValidateContainers(t *testing.T) {
	runCases(t, []specCase{
		{name: "fine", spec: `{"initContainers":[{"name":"i","image":"x"},{"name":"s","image":"x","restartPolicy":"Always","startupProbe":{"exec":{"command":["a"]}}}]}`},
		{name: "none", spec: `{"containers":[]}`, want: []string{`spec.containers: Required value`}},
		{name: "names and images", spec: `{"containers":[{"name":"X","image":"i"},{"name":"b","image":"\ti"},{"name":"b"}]}`, want: []string{
			`spec.containers[0].name: Invalid value: "X": ` + badLabel,
			`spec.containers[2].image: Required value`,
			`spec.containers[2].name: Duplicate value: "b"`,
			`spec.containers[1].image: Invalid value: "\ti": must not have leading or trailing whitespace`,
		}},
		{name: "an image with blanks in a template", spec: `{"containers":[{"name":"b","image":"i"}]}`, opts: Options{Template: true}},
		{name: "policies", spec: `{"containers":[{"name":"c","image":"i","imagePullPolicy":"x","terminationMessagePolicy":"y"}]}`, want: []string{
			`spec.containers[0].terminationMessagePolicy: Unsupported value: "y": supported values: "File", "FallbackToLogsOnError"`,
			`spec.containers[0].imagePullPolicy: Unsupported value: "x": supported values: "Always", "IfNotPresent", "Never"`,
		}},
		{name: "ports", spec: `{"containers":[{"name":"c","image":"i","ports":[{"containerPort":1,"hostPort":7,"name":"p"},{"containerPort":2,"hostPort":7,"name":"p"},
			{"containerPort":65536,"protocol":"x"}]},{"name":"d","image":"i","ports":[{"containerPort":1,"hostPort":7,"hostIP":"1.1.1.1"}]}]}`, want: []string{
			`spec.containers[0].ports[1].name: Duplicate value: "p"`,
			`spec.containers[0].ports[2].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive`,
			`spec.containers[0].ports[2].protocol: Unsupported value: "x": supported values: "SCTP", "TCP", "UDP"`,
			`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//7"`,
		}},
		{name: "ports in the host's network", spec: `{"hostNetwork":true,"containers":[{"name":"c","image":"i","ports":[{"containerPort":1,"hostPort":2}]}]}`, want: []string{
			"spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is true",
		}},
		{name: "init containers do not probe", spec: `{"initContainers":[{"name":"c","image":"i","readinessProbe":{"exec":{"command":["a"]}},"lifecycle":{}}]}`, want: []string{
			`spec.initContainers[0].name: Duplicate value: "c"`,
			`spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always`,
			`spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always`,
		}},
		{name: "restart rules", spec: `{"containers":[{"name":"c","image":"i","restartPolicy":"x","restartPolicyRules":[{"action":"Restart"},{"action":"Stop","exitCodes":{"operator":"In"}}]}]}`, want: []string{
			`spec.containers[0].restartPolicy: Unsupported value: "x": supported values: "Always", "Never", "OnFailure"`,
			`spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified`,
			`spec.containers[0].restartPolicyRules[1].action: Unsupported value: "Stop": supported values: "Restart", "RestartAllContainers"`,
		}},
		{name: "ephemeral containers", spec: `{"ephemeralContainers":[{"name":"e","image":"i","targetContainerName":"z","stdin":true,"resources":{"limits":{"cpu":1}},"restartPolicy":"Never"},
			{"name":"e","image":"i"}]}`, want: []string{
			`spec.ephemeralContainers[0].targetContainerName: Not found: "z"`,
			`spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container`,
			`spec.ephemeralContainers[0].restartPolicy: Forbidden: cannot be set for an Ephemeral Container`,
			`spec.ephemeralContainers[1].name: Duplicate value: "e"`,
		}},
		{name: "probes", spec: `{"containers":[{"name":"c","image":"i","livenessProbe":{"httpGet":{"port":"-"},"exec":{},"successThreshold":3},
			"readinessProbe":{"grpc":{"port":1},"terminationGracePeriodSeconds":1}}]}`, want: []string{
			`spec.containers[0].livenessProbe.exec.command: Required value`,
			`spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type`,
			`spec.containers[0].livenessProbe.successThreshold: Invalid value: 3: must be 1`,
			`spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes`,
		}},
		{name: "hooks", spec: `{"terminationGracePeriodSeconds":5,"containers":[{"name":"c","image":"i","lifecycle":{"postStart":{"sleep":{"seconds":6}},"preStop":{}}}]}`, want: []string{
			`spec.containers[0].lifecycle.postStart.sleep: Invalid value: 6: must be non-negative and less than terminationGracePeriodSeconds (5)`,
			`spec.containers[0].lifecycle.preStop: Required value: must specify a handler type`,
		}},
		{name: "resize policies", spec: `{"restartPolicy":"Never","containers":[{"name":"c","image":"i","resizePolicy":[{"resourceName":"cpu","restartPolicy":"RestartContainer"}]}]}`, want: []string{
			"spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'",
		}},
	})
}

func TestValidateEnv(t *testing.T) {
	runCases(t, []specCase{
		{name: "fine", spec: `{"volumes":[{"name":"v"}],"containers":[{"name":"c","image":"i","env":[{"name":"a b"},{"name":"b","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['x/y']"}}},
			{"name":"c","valueFrom":{"resourceFieldRef":{"resource":"limits.hugepages-2Mi","divisor":"1Mi"}}},{"name":"d","valueFrom":{"fieldRef":{"fieldPath":"spec.host"}}},
			{"name":"e","valueFrom":{"fileKeyRef":{"volumeName":"v","path":"p","key":"k"}}}],"envFrom":[{"secretRef":{"name":"s"}}]}]}`},
		{name: "sources", spec: `{"containers":[{"name":"c","image":"i","env":[{"name":"="},{"name":"b","value":"v","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}},{"name":"c","valueFrom":{}}],
			"envFrom":[{},{"prefix":"=","configMapRef":{"name":"A"}}]}]}`, want: []string{
			`spec.containers[0].env[0].name: Invalid value: "=": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			"spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			"spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
			`spec.containers[0].envFrom[1].prefix: Invalid value: "=": a valid environment variable name must consist only of printable ASCII characters other than '='`,
			`spec.containers[0].envFrom[1].configMapRef.name: Invalid value: "A": ` + badSubdomain,
		}},
		{name: "fields", spec: `{"containers":[{"name":"c","image":"i","env":[{"name":"a","valueFrom":{"fieldRef":{"fieldPath":"status.phase"}}},{"name":"b","valueFrom":{"fieldRef":{"fieldPath":"spec.x['y']"}}},
			{"name":"c","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"7"}}},{"name":"d","valueFrom":{"resourceFieldRef":{"resource":"x"}}}]}]}`, want: []string{
			`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x['y']": error converting fieldPath: field label does not support subscript: spec.x['y']`,
			`spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.memory": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource`,
			`spec.containers[0].env[3].valueFrom.resourceFieldRef.resource: Unsupported value: "x": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`,
		}},
	})
}

func TestValidateResources(t *testing.T) {
	one := func(resources string) string {
		return `{"containers":[{"name":"c","image":"i","resources":` + resources + `}]}`
	}
	runCases(t, []specCase{
		{name: "fine", spec: one(`{"requests":{"cpu":"1","example.com/x":"2"},"limits":{"example.com/x":"2","cpu":"2"}}`)},
		{name: "request above limit", spec: one(`{"requests":{"memory":"2"},"limits":{"memory":"1"}}`), want: []string{
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to memory limit of 1`,
		}},
		{name: "names", spec: one(`{"limits":{"pods":"1","requests.example.com/y":"1"}}`), want: []string{
			`spec.containers[0].resources.limits[pods]: Invalid value: "pods": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[requests.example.com/y]: Invalid value: "requests.example.com/y": doesn't follow extended resource name standard`,
			`spec.containers[0].resources.requests[pods]: Invalid value: "pods": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[requests.example.com/y]: Invalid value: "requests.example.com/y": doesn't follow extended resource name standard`,
		}},
		{name: "huge pages", spec: one(`{"limits":{"hugepages-2Mi":"3Mi","cpu":"1"}}`), want: []string{
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
		}},
		{name: "old huge pages", spec: one(`{"limits":{"hugepages-2Mi":"3Mi","cpu":"1"}}`), opts: Options{AllowIndivisibleHugePages: true}},
		{name: "claims", spec: `{"resourceClaims":[{"name":"a","resourceClaimName":"x"}],"containers":[{"name":"c","image":"i","resources":{"claims":[{"name":"a","request":"r"},{"name":"a","request":"r"},{"name":"a"},{"name":"b"}]}}]}`, want: []string{
			`spec.containers[0].resources.claims[1]: Duplicate value: "a/r"`,
			`spec.containers[0].resources.claims[2]: Duplicate value: "a"`,
			`spec.containers[0].resources.claims[3]: Not found: "b": must be one of the names in pod.spec.resourceClaims: a`,
		}},
		{name: "the pod's own", spec: `{"resources":{"requests":{"cpu":"1"},"limits":{"cpu":"2","memory":"1Gi"}},"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1500m"},"limits":{"memory":"2Gi"}}}]}`, want: []string{
			`spec.resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi`,
			`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 1500m`,
			`spec.resources.containers[0][memory].limits: Invalid value: "2Gi": must be less than or equal to pod limits of 1Gi`,
		}},
		{name: "overhead", spec: `{"overhead":{"cpu":"-1"}}`, want: []string{
			`spec.overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`,
		}},
	})
}

func TestValidateSpecFields(t *testing.T) {
	runCases(t, []specCase{
		{name: "scalars", spec: `{"restartPolicy":"x","dnsPolicy":"y","activeDeadlineSeconds":0,"nodeName":"N","hostname":"H","serviceAccountName":"S","priorityClassName":"P","preemptionPolicy":"z"}`, want: []string{
			`spec.restartPolicy: Unsupported value: "x": supported values: "Always", "OnFailure", "Never"`,
			`spec.dnsPolicy: Unsupported value: "y": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
			`spec.serviceAccountName: Invalid value: "S": ` + badSubdomain,
			`spec.nodeName: Invalid value: "N": ` + badSubdomain,
			`spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive`,
			`spec.hostname: Invalid value: "H": ` + badLabel,
			`spec.priorityClassName: Invalid value: "P": ` + badSubdomain,
			`spec.preemptionPolicy: Unsupported value: "z": supported values: "PreemptLowerPriority", "Never"`,
		}},
		{name: "names of hosts", spec: `{"hostnameOverride":"a","setHostnameAsFQDN":true,"hostAliases":[{"ip":"1.2.3.4","hostnames":["B"]}]}`, want: []string{
			`spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true`,
			`spec.hostAliases[0].hostnames[0]: Invalid value: "B": ` + badSubdomain,
		}},
		{name: "old addresses", spec: `{"hostAliases":[{"ip":"01.2.3.4"}]}`, opts: Options{OldIPs: []string{"01.2.3.4"}}},
		{name: "gates and claims", spec: `{"schedulingGates":[{"name":"g"},{"name":"g"}],"resourceClaims":[{"name":""},{"name":"a","resourceClaimTemplateName":"t"},{"name":"a","resourceClaimName":"t"}]}`, want: []string{
			`spec.resourceClaims[0].name: Required value`,
			"spec.resourceClaims[0]: Invalid value: {\"Name\":\"\",\"ResourceClaimName\":null,\"ResourceClaimTemplateName\":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
			`spec.resourceClaims[2].name: Duplicate value: "a"`,
			`spec.schedulingGates[1]: Duplicate value: "g"`,
		}},
		{name: "dns", spec: `{"dnsPolicy":"None","dnsConfig":{"searches":["A","_x.y."],"options":[{}]}}`, want: []string{
			`spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when ` + "`dnsPolicy`" + ` is None`,
			`spec.dnsConfig.searches[0]: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')`,
			`spec.dnsConfig.options[0]: Required value: must not be empty`,
		}},
		{name: "tolerations", spec: `{"tolerations":[{},{"operator":"Exists"},{"key":"k","operator":"Lt","value":"1"},{"key":"k","operator":"Exists","value":"v"},{"key":"k","tolerationSeconds":1},{"key":"k","effect":"e"}]}`, want: []string{
			"spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
			`spec.tolerations[2].operator: Unsupported value: "Lt": supported values: "Equal", "Exists", "Lt", "Gt"`,
			"spec.tolerations[3].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
			"spec.tolerations[4].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
			`spec.tolerations[5].effect: Unsupported value: "e": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
		}},
		{name: "node affinity", spec: `{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b c"]}],
			"matchFields":[{"key":"metadata.name","operator":"In","values":["X"]}]}]},"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":0,"preference":{"matchExpressions":[{"key":"a","operator":"In","values":["b c"]}]}}]}}}`, want: []string{
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values[0]: Invalid value: "b c": ` + badValue,
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values[0]: Invalid value: "X": ` + badSubdomain,
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100`,
		}},
		{name: "pod affinity", spec: `{"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"z","labelSelector":{"matchLabels":{"a":"b c"}},"matchLabelKeys":["x"],"mismatchLabelKeys":["x"]}]}}}`, want: []string{
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector.matchLabels: Invalid value: "b c": ` + badValue,
			`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: "x": exists in both matchLabelKeys and mismatchLabelKeys`,
		}},
		{name: "spread", spec: `{"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"a","whenUnsatisfiable":"ScheduleAnyway","minDomains":1,"labelSelector":{}},{"maxSkew":1,"topologyKey":"a","whenUnsatisfiable":"ScheduleAnyway","nodeTaintsPolicy":"x"}]}`, want: []string{
			`spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{a, ScheduleAnyway}"`,
			`spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway`,
			`spec.topologySpreadConstraints[1].nodeTaintsPolicy: Unsupported value: "x": supported values: "Honor", "Ignore"`,
		}},
	})
}

func TestValidateTemplate(t *testing.T) {
	template := decode[corev1.PodTemplateSpec](t, `{"metadata":{"labels":{"a b":"c"}},"spec":{"containers":[{"name":"c","image":" i"}],"ephemeralContainers":[{"name":"e","image":"i"}]}}`)
	SetPodTemplateDefaults(template)
	var got []string
	for _, e := range ValidatePodTemplateSpec(template, field.NewPath("template"), OptionsForTemplate(template, nil)) {
		got = append(got, e.Field+" "+string(e.Type))
	}
	want := []string{"template.labels FieldValueInvalid", "template.spec.ephemeralContainers FieldValueForbidden"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestOptionsKeepWhatIsStored(t *testing.T) {
	old := decode[corev1.PodSpec](t, `{"hostIPC":true,"securityContext":{"sysctls":[{"name":"kernel/shm_rmid_forced","value":"1"}]},
		"containers":[{"name":"c","image":"i","resources":{"limits":{"hugepages-2Mi":"1Mi","cpu":"1"}}}],"dnsConfig":{"nameservers":["01.1.1.1"]},
		"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"In","values":["b c"]}]}]}},
			"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"z","labelSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b c"]}]}}]}}}`)
	pod := &corev1.Pod{Spec: *old}
	SetPodDefaults(pod)
	if errs := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, nil, Options{}); len(errs) != 6 {
		t.Errorf("a new pod: %v", errs)
	}
	if errs := ValidatePodSpec(&pod.Spec, &pod.ObjectMeta, nil, OptionsForSpec(&pod.Spec)); len(errs) != 0 {
		t.Errorf("a stored pod: %v", errs)
	}
}

// TestOldAnnotations: what annotations ask for is checked even where a field has taken their place.
func TestOldAnnotations(t *testing.T) {
	pod := decode[corev1.Pod](t, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	const armor = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	for _, c := range []struct{ key, value, want string }{
		{corev1.PodDeletionCost, "-5", ""},
		{corev1.PodDeletionCost, "+5", `a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+5": must be a 32bit integer`},
		{corev1.PodDeletionCost, "", `a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "": must be a 32bit integer`},
		{corev1.PodDeletionCost, "2147483648", `a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "2147483648": must be a 32bit integer`},
		{podSeccomp, "localhost/x", ""},
		{podSeccomp, "x", `a.seccomp.security.alpha.kubernetes.io/pod: Invalid value: "x": must be a valid seccomp profile`},
		{containerSeccomp + "c", "localhost//x", `a.container.seccomp.security.alpha.kubernetes.io/c: Invalid value: "/x": must be a relative path`},
		{armor + "c", "localhost/x", ""},
		{armor + "c", "x", `a[container.apparmor.security.beta.kubernetes.io/c]: Invalid value: "x": invalid AppArmor profile name: "x"`},
		{armor + "d", "", `a[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: "d": container not found`},
	} {
		got := ""
		for _, err := range ValidatePodAnnotations(&metav1.ObjectMeta{Annotations: map[string]string{c.key: c.value}}, &pod.Spec, Options{}, field.NewPath("a")) {
			got += err.Error()
		}
		if got != c.want {
			t.Errorf("%s=%q: got %s, want %s", c.key, c.value, got, c.want)
		}
	}
	was := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.PodDeletionCost: "x"}}}
	if errs := ValidatePodAnnotations(&was.ObjectMeta, &pod.Spec, OptionsForPod(&was), field.NewPath("a")); len(errs) > 0 {
		t.Errorf("what was accepted once is refused: %v", errs)
	}
}

// TestQOSOfPodLevel: of a pod's own resources only those count that it can have.
func TestQOSOfPodLevel(t *testing.T) {
	for _, c := range []struct{ resources, want string }{
		{`{"requests":{"example.com/x":"1"}}`, "Guaranteed"},
		{`{"requests":{"cpu":"1"}}`, "Burstable"},
		{`{"requests":{"hugepages-2Mi":"2Mi"},"limits":{"hugepages-2Mi":"2Mi"}}`, "BestEffort"},
	} {
		pod := decode[corev1.Pod](t, `{"spec":{"resources":`+c.resources+`,"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}}]}}`)
		if got := string(QOSClass(&pod.Spec)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.resources, got, c.want)
		}
	}
}
