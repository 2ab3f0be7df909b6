package autoscaling_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/autoscaling"
)

const target = "spec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}"

func TestHorizontalPodAutoscaler(t *testing.T) {
	minimal := target + "\n  maxReplicas: 3"
	apitest.Check(t, autoscaling.Kinds(), "HorizontalPodAutoscaler", []apitest.Case{
		{"minimal", minimal, ""},
		{"nothing", "spec: {}", "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`\n" +
			"spec.scaleTargetRef.kind: Required value\nspec.scaleTargetRef.name: Required value\nspec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group\n" +
			"spec.maxReplicas: Required value"},
		{"fewer than none", target + "\n  maxReplicas: -1", "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`\nspec.maxReplicas: Invalid value: -1: must be greater than or equal to 1"},
		{"no container's name", minimal + "\n  metrics: [{type: ContainerResource, containerResource: {name: odd, container: A, target: {type: Utilization, averageUtilization: 1}}}]",
			"must be a standard resource type or fully qualified\ncontainerResource.name: Invalid value: \"odd\": must be a standard resource for containers\ncontainerResource.container: Invalid value: \"A\""},
		{"to nothing", minimal + "\n  minReplicas: 0", "spec.metrics: Forbidden: must specify at least one Object or External metric"},
		{"less than nothing", minimal + "\n  minReplicas: -1", "spec.minReplicas: Invalid value: -1: must be greater than or equal to 0"},
		{"upside down", target + "\n  maxReplicas: 3\n  minReplicas: 5", "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"},
		{"no type", minimal + "\n  metrics: [{}]", "spec.metrics[0].type: Required value: must specify a metric source type\nUnsupported value: \"\""},
		{"no source", minimal + "\n  metrics: [{type: Resource}]", "spec.metrics[0].resource: Required value: must populate information for the given metric source"},
		{"another source", minimal + "\n  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 5}}, pods: {metric: {name: a}, target: {type: AverageValue, averageValue: 1}}}]",
			"must populate the given metric source only"},
		{"no target", minimal + "\n  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization}}}]", "must set either a target raw value or a target utilization"},
		{"a container", minimal + "\n  metrics: [{type: ContainerResource, containerResource: {name: cpu, target: {type: Utilization, averageUtilization: 0}}}]",
			"container: Required value: must specify a container\naverageUtilization: Invalid value: 0: must be greater than 0"},
		{"behavior", minimal + "\n  behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Some, policies: [{type: Pods, value: 0, periodSeconds: 1801}]}}",
			"must be less than or equal to 3600\nselectPolicy: Unsupported value\nvalue: Invalid value: 0: must be greater than zero\nperiodSeconds: Invalid value: 1801: must be less than or equal to 1800"},
		{"of the core group", scaled("v1", "Pod") + "\n  maxReplicas: 3", "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"},
		{"a replication controller", scaled("v1", "ReplicationController") + "\n  maxReplicas: 3", ""},
		{"a replication controller of no version", scaled("", "ReplicationController") + "\n  maxReplicas: 3", ""},
		{"of no version", scaled("", "Deployment") + "\n  maxReplicas: 3", "apiVersion must specify API group"},
		{"of an odd version", scaled("a/b/c", "ReplicationController") + "\n  maxReplicas: 3", "unexpected GroupVersion string: a/b/c"},
		{"a metric of an object of no version", minimal + describing(""), ""},
		{"a metric of an object of an odd version", minimal + describing("a/b/c"), "spec.metrics[0].object.describedObject.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"},
	})
}

// scaled is a target of a version and kind, describing a metric of an object of a version.
func scaled(version, kind string) string {
	return fmt.Sprintf("spec:\n  scaleTargetRef: {apiVersion: %q, kind: %s, name: d}", version, kind)
}

func describing(version string) string {
	return fmt.Sprintf("\n  metrics: [{type: Object, object: {describedObject: {apiVersion: %q, kind: Service, name: s}, metric: {name: hits}, target: {type: Value, value: 100}}}]", version)
}

// TestOddVersionsStay: what was stored before may stay, until it is changed.
func TestOddVersionsStay(t *testing.T) {
	more := "\n  maxReplicas: 3"
	apitest.CheckChanges(t, autoscaling.Kinds(), "HorizontalPodAutoscaler", "", []apitest.Change{
		{"the target stays", scaled("v1", "Pod") + more, scaled("v1", "Pod") + "\n  maxReplicas: 4", ""},
		{"another kind", scaled("v1", "ReplicationController") + more, scaled("v1", "Pod") + more, "apiVersion must specify API group"},
		{"another version", scaled("apps/v1", "Pod") + more, scaled("v1", "Pod") + more, "apiVersion must specify API group"},
		{"the metric stays", target + more + describing("a/b/c"), target + "\n  maxReplicas: 4" + describing("a/b/c"), ""},
		{"the metric becomes odd", target + more + describing("v1"), target + more + describing("a/b/c"), "unexpected GroupVersion string: a/b/c"},
	})
}

// TestOldForm: what v1 has no field for travels in annotations, and comes back.
func TestOldForm(t *testing.T) {
	c := apitest.Catalogue(t, autoscaling.Kinds())
	k := apitest.Kind(t, c.Kinds(), "HorizontalPodAutoscaler")
	_, v1, ok := c.ByResource(schema.GroupVersionResource{Group: "autoscaling", Version: "v1", Resource: "horizontalpodautoscalers"})
	if !ok {
		t.Fatal("no v1")
	}
	h := apitest.Read(t, c, k, "metadata: {name: a, annotations: {mine: stays}}\n"+target+`
  maxReplicas: 3
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: Pods, pods: {metric: {name: requests}, target: {type: AverageValue, averageValue: 10}}}
  - {type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: hits}, target: {type: Value, value: 100}}}
  - {type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: 30}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 50}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
status:
  currentReplicas: 2
  conditions: [{type: AbleToScale, status: "True", reason: Fine}]
  currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 42, averageValue: 420m}}}]
`).(*autoscalingv2.HorizontalPodAutoscaler)
	before := h.DeepCopy()
	out, err := c.FromHub(k, v1, h)
	if err != nil {
		t.Fatal(err)
	}
	if !apiequality.Semantic.DeepEqual(h, before) {
		t.Error("the conversion changed its source")
	}
	old := out.(*autoscalingv1.HorizontalPodAutoscaler)
	if *old.Spec.TargetCPUUtilizationPercentage != 60 || *old.Status.CurrentCPUUtilizationPercentage != 42 {
		t.Errorf("cpu %d of %d", *old.Status.CurrentCPUUtilizationPercentage, *old.Spec.TargetCPUUtilizationPercentage)
	}
	for name, want := range map[string]string{
		"mine": "stays",
		"autoscaling.alpha.kubernetes.io/metrics":         `"targetAverageValue":"1Gi"`,
		"autoscaling.alpha.kubernetes.io/conditions":      `"reason":"Fine"`,
		"autoscaling.alpha.kubernetes.io/current-metrics": `"currentAverageUtilization":42`,
		"autoscaling.alpha.kubernetes.io/behavior":        `"StabilizationWindowSeconds":60`,
	} {
		if got := old.Annotations[name]; !strings.Contains(got, want) {
			t.Errorf("annotation %s is %q, want %q in it", name, got, want)
		}
	}
	back, err := c.ToHub(k, v1, old)
	if err != nil {
		t.Fatal(err)
	}
	// The use of CPU comes last, for it has a field of its own.
	want := before.DeepCopy()
	want.Spec.Metrics = append(want.Spec.Metrics[1:], want.Spec.Metrics[0])
	want.TypeMeta = back.(*autoscalingv2.HorizontalPodAutoscaler).TypeMeta
	if !apiequality.Semantic.DeepEqual(back, want) {
		t.Errorf("came back as\n%+v, want\n%+v", back, want)
	}
}

func TestDefaults(t *testing.T) {
	c := apitest.Catalogue(t, autoscaling.Kinds())
	k := apitest.Kind(t, c.Kinds(), "HorizontalPodAutoscaler")
	h := apitest.Read(t, c, k, target+"\n  maxReplicas: 3\n  behavior: {}").(*autoscalingv2.HorizontalPodAutoscaler)
	m := h.Spec.Metrics
	if *h.Spec.MinReplicas != 1 || len(m) != 1 || m[0].Resource.Name != "cpu" || *m[0].Resource.Target.AverageUtilization != 80 {
		t.Errorf("spec %+v", h.Spec)
	}
	up, down := h.Spec.Behavior.ScaleUp, h.Spec.Behavior.ScaleDown
	if *up.StabilizationWindowSeconds != 0 || *up.SelectPolicy != "Max" || len(up.Policies) != 2 || up.Policies[0].Value != 4 || up.Policies[1].Value != 100 {
		t.Errorf("up %+v", up)
	}
	if down.StabilizationWindowSeconds != nil || *down.SelectPolicy != "Max" || len(down.Policies) != 1 || down.Policies[0].PeriodSeconds != 15 {
		t.Errorf("down %+v", down)
	}
}

func TestRow(t *testing.T) {
	c := apitest.Catalogue(t, autoscaling.Kinds())
	k := apitest.Kind(t, c.Kinds(), "HorizontalPodAutoscaler")
	for _, x := range []struct{ doc, want string }{
		{"metadata: {name: a}\n" + target + "\n  maxReplicas: 3", "a|Deployment/d|cpu: <unknown>/80%|1|3|0|<unknown>"},
		{"apiVersion: autoscaling/v1\nmetadata: {name: a}\n" + target + "\n  maxReplicas: 3\n  minReplicas: 2\n  targetCPUUtilizationPercentage: 50\nstatus: {currentReplicas: 2, currentCPUUtilizationPercentage: 7}",
			"a|Deployment/d|cpu: 7%/50%|2|3|2|<unknown>"},
		{"metadata: {name: a}\n" + target + `
  maxReplicas: 3
  metrics:
  - {type: Pods, pods: {metric: {name: x}, target: {type: AverageValue, averageValue: 10}}}
  - {type: External, external: {metric: {name: y}, target: {type: AverageValue, averageValue: 30}}}
  - {type: Object, object: {metric: {name: z}, target: {type: Value, value: 30}}}
`, "a|Deployment/d|<unknown>/10, <unknown>/30 (avg) + 1 more...|1|3|0|<unknown>"},
	} {
		if got := apitest.Row(k, apitest.Read(t, c, k, x.doc), time.Now()); got != x.want {
			t.Errorf("shown as\n%s, want\n%s", got, x.want)
		}
	}
}
