package apps_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/apps"
)

const template = `
  template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: nginx}]}}`

const selected = `
  selector: {matchLabels: {app: a}}` + template

func TestDeployment(t *testing.T) {
	apitest.Check(t, apps.Kinds(), "Deployment", []apitest.Case{
		{"minimal", "spec:" + selected, ""},
		{"no selector", "spec:" + template, "spec.selector: Required value\nspec.template.metadata.labels: Invalid value"},
		{"empty selector", "spec:\n  selector: {}" + template, "empty selector is invalid for deployment"},
		{"another selector", "spec:\n  selector: {matchLabels: {app: b}}" + template, "`selector` does not match template `labels`"},
		{"broken selector", "spec:\n  selector: {matchExpressions: [{key: a, operator: Near}]}" + template, "not a valid selector operator\ninvalid label selector"},
		{"negative numbers", "spec:" + selected + "\n  replicas: -1\n  minReadySeconds: -1\n  revisionHistoryLimit: -1",
			"spec.replicas: Invalid value: -1\nspec.minReadySeconds: Invalid value: -1\nspec.revisionHistoryLimit: Invalid value: -1"},
		{"deadline", "spec:" + selected + "\n  minReadySeconds: 600", "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"},
		{"unknown strategy", "spec:" + selected + "\n  strategy: {type: Canary}", `spec.strategy: Unsupported value: {"Type":"Canary","RollingUpdate":null}`},
		{"recreate with steps", "spec:" + selected + "\n  strategy: {type: Recreate, rollingUpdate: {}}", "may not be specified when strategy `type` is 'Recreate'"},
		{"no step", "spec:" + selected + "\n  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}", "may not be 0 when `maxSurge` is 0"},
		{"more than all", "spec:" + selected + "\n  strategy: {rollingUpdate: {maxUnavailable: 150%, maxSurge: 150%}}", "must not be greater than 100%"},
		{"pods that end", "spec:\n  selector: {matchLabels: {app: a}}\n  template: {metadata: {labels: {app: a}}, spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers: [{name: c, image: i}]}}",
			"spec.template.spec.restartPolicy: Unsupported value\nactiveDeadlineSeconds in ReplicaSet is not Supported"},
	})
}

func TestDeploymentDefaults(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Deployment")
	for _, x := range []struct{ name, doc, want string }{
		{"apps/v1", "spec:" + selected,
			`"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}},"revisionHistoryLimit":10,"progressDeadlineSeconds":600`},
		{"recreate", "spec:" + selected + "\n  strategy: {type: Recreate}", `"strategy":{"type":"Recreate"},"revisionHistoryLimit":10`},
		{"apps/v1beta2", "apiVersion: apps/v1beta2\nspec:" + selected, `"maxSurge":"25%"}},"revisionHistoryLimit":10,"progressDeadlineSeconds":600`},
		{"apps/v1beta1", "apiVersion: apps/v1beta1\nspec:" + template, `"maxSurge":"25%"}},"revisionHistoryLimit":2,"progressDeadlineSeconds":600`},
		{"extensions/v1beta1", "apiVersion: extensions/v1beta1\nspec:" + template,
			`"rollingUpdate":{"maxUnavailable":1,"maxSurge":1}},"revisionHistoryLimit":2147483647,"progressDeadlineSeconds":2147483647`},
		{"one step given", "apiVersion: extensions/v1beta1\nspec:" + template + "\n  strategy: {rollingUpdate: {maxSurge: 3}}", `"rollingUpdate":{"maxUnavailable":1,"maxSurge":3}`},
	} {
		t.Run(x.name, func(t *testing.T) {
			obj, errs := apitest.Create(t, c, k, x.doc)
			if len(errs) > 0 {
				t.Fatal(apitest.Text(errs))
			}
			d := obj.(*appsv1.Deployment)
			if d.APIVersion != "apps/v1" || *d.Spec.Replicas != 1 || d.Spec.Selector.MatchLabels["app"] != "a" {
				t.Errorf("%s, replicas %d, selector %v", d.APIVersion, *d.Spec.Replicas, d.Spec.Selector)
			}
			if got := deploymentText(t, d); !strings.Contains(got, x.want) {
				t.Errorf("got %s\nwant %s", got, x.want)
			}
		})
	}
}

// deploymentText is the spec as JSON in the order of its fields, without the template.
func deploymentText(t *testing.T, d *appsv1.Deployment) string {
	t.Helper()
	s := d.Spec.DeepCopy()
	s.Template = corev1.PodTemplateSpec{}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLegacyLabels(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	for _, x := range []struct{ kind, version string }{
		{"Deployment", "apps/v1beta1"}, {"Deployment", "extensions/v1beta1"}, {"ReplicaSet", "extensions/v1beta1"},
		{"DaemonSet", "extensions/v1beta1"}, {"StatefulSet", "apps/v1beta1"},
	} {
		obj := apitest.Read(t, c, apitest.Kind(t, c.Kinds(), x.kind), "apiVersion: "+x.version+"\nspec:"+template)
		if obj.GetLabels()["app"] != "a" {
			t.Errorf("%s %s has labels %v", x.version, x.kind, obj.GetLabels())
		}
	}
	obj := apitest.Read(t, c, apitest.Kind(t, c.Kinds(), "Deployment"), "apiVersion: apps/v1beta1\nmetadata: {labels: {mine: b}}\nspec:"+template)
	if len(obj.GetLabels()) != 1 {
		t.Errorf("labels that were given were changed: %v", obj.GetLabels())
	}
}

func TestDaemonSet(t *testing.T) {
	apitest.Check(t, apps.Kinds(), "DaemonSet", []apitest.Case{
		{"minimal", "spec:" + selected, ""},
		{"both steps", "spec:" + selected + "\n  updateStrategy: {rollingUpdate: {maxUnavailable: 1, maxSurge: 1}}", "may not be set when maxUnavailable is non-zero"},
		{"no step", "spec:" + selected + "\n  updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 0}}", "cannot be 0 when maxSurge is 0"},
		{"strategy", "spec:" + selected + "\n  updateStrategy: {type: Recreate}", `supported values: "RollingUpdate", "OnDelete"`},
	})
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "DaemonSet")
	old, _ := apitest.Create(t, c, k, "spec:"+selected)
	now := old.DeepCopyObject().(*appsv1.DaemonSet)
	now.Annotations = nil
	now.Spec.Template.Spec.Containers[0].Image = "nginx:2"
	k.PrepareForUpdate(now, old)
	if got := now.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "2" {
		t.Errorf("template generation %q after a change", got)
	}
}

func TestStatefulSet(t *testing.T) {
	apitest.Check(t, apps.Kinds(), "StatefulSet", []apitest.Case{
		{"minimal", "spec:" + selected, ""},
		{"claims", "spec:" + selected + "\n  volumeClaimTemplates: [{metadata: {name: d}, spec: {}}]", "at least 1 access mode is required\nspec.volumeClaimTemplates[0].spec.resources[storage]: Required value"},
		{"retention", "spec:" + selected + "\n  persistentVolumeClaimRetentionPolicy: {whenDeleted: Keep}", `whenDeleted: Unsupported value: "Keep"`},
		{"service", "spec:" + selected + "\n  serviceName: Bad_Name", "spec.serviceName: Invalid value"},
		{"partition", "spec:" + selected + "\n  updateStrategy: {rollingUpdate: {partition: -1}}", "spec.updateStrategy.rollingUpdate.partition"},
	})
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StatefulSet")
	old, _ := apitest.Create(t, c, k, "spec:"+selected)
	now := old.DeepCopyObject().(*appsv1.StatefulSet)
	now.Spec.ServiceName, now.Spec.PodManagementPolicy = "Other", appsv1.ParallelPodManagement
	now.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "d"}}}
	const claims = `spec.volumeClaimTemplates: Invalid value: [{"name":"d","Spec":{"AccessModes":null,"Selector":null,"Resources":{"Limits":null,"Requests":null},` +
		`"VolumeName":"","StorageClassName":null,"VolumeMode":null,"DataSource":null,"DataSourceRef":null,"VolumeAttributesClassName":null},"Status":{`
	errs := k.ValidateUpdate(now, old)
	for i, want := range []string{claims, `spec.serviceName: Invalid value: "Other": field is immutable`, `spec.podManagementPolicy: Invalid value: "Parallel": field is immutable`} {
		if len(errs) != 3 || !strings.HasPrefix(errs[i].Error(), want) {
			t.Fatalf("what never changes: %v, want %s", errs, want)
		}
	}
}

// Host name and subdomain in the template of a StatefulSet are never used; nor is a template looked into that was wrong before.
func TestStatefulSetTemplate(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StatefulSet")
	old, errs := apitest.Create(t, c, k, "spec:"+selected)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	now := old.DeepCopyObject().(*appsv1.StatefulSet)
	now.Spec.Template.Spec.Hostname, now.Spec.Template.Spec.Subdomain = "No_Host", "No_Domain"
	if errs := k.Validate(now); len(errs) > 0 {
		t.Errorf("a host name: %v", errs)
	}
	now.Spec.Template.Spec.NodeName = "No_Node"
	if errs := k.ValidateUpdate(now, old); len(errs) != 1 {
		t.Errorf("a bad node name: %v", errs)
	}
	if errs := k.ValidateUpdate(now, now.DeepCopy()); len(errs) > 0 {
		t.Errorf("a bad node name that was there before: %v", errs)
	}
}

// TestStepsOfNobody: steps of a rolling update that doesn't happen are shown as numbers.
func TestStepsOfNobody(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	obj, errs := apitest.Create(t, c, apitest.Kind(t, c.Kinds(), "DaemonSet"), "spec:"+selected+"\n  updateStrategy: {type: OnDelete, rollingUpdate: {}}")
	if r := obj.(*appsv1.DaemonSet).Spec.UpdateStrategy.RollingUpdate; len(errs) > 0 || r.MaxUnavailable.String() != "0" || r.MaxSurge.String() != "0" {
		t.Errorf("%v %+v", errs, r)
	}
	apitest.Check(t, apps.Kinds(), "StatefulSet", []apitest.Case{{"on delete", "spec:" + selected + "\n  updateStrategy: {type: OnDelete, rollingUpdate: {}}",
		`rollingUpdate: Invalid value: {"Partition":0,"MaxUnavailable":null}: only allowed for updateStrategy 'RollingUpdate'`}})
}

// TestStatefulSetFractions: amounts in the templates of claims are rounded up to thousandths, and parts of bytes are told of, as with claims.
func TestStatefulSetFractions(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "StatefulSet")
	obj, errs := apitest.Create(t, c, k, `metadata: {name: a}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}
  volumeClaimTemplates: [{metadata: {name: v}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 0.5m}}}}]`)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s := obj.(*appsv1.StatefulSet)
	if got := s.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests.Storage().String(); got != "1m" {
		t.Error(got)
	}
	const text = `: fractional byte value "1m" is invalid, must be an integer`
	if got := k.Warnings(s, nil); len(got) != 1 || got[0] != "spec.volumeClaimTemplates[0].resources.requests[storage]"+text {
		t.Error(got)
	}
	if got := k.Warnings(s, s); len(got) != 1 || got[0] != "spec.volumeClaimTemplates[0].Spec.resources.requests[storage]"+text {
		t.Error(got)
	}
}

func TestReplicaSetStatus(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "ReplicaSet")
	old, _ := apitest.Create(t, c, k, "spec:"+selected)
	now := old.DeepCopyObject().(*appsv1.ReplicaSet)
	now.Status = appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 1, AvailableReplicas: 2}
	if errs := k.ValidateStatusUpdate(now, old); len(errs) != 1 || errs[0].Detail != "cannot be greater than readyReplicas" {
		t.Errorf("more available than ready: %v", errs)
	}
}

// What is wrong with the new form is said once when it is an update.
func TestComplaintsAboutUpdates(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	for _, kind := range []string{"ReplicaSet", "DaemonSet", "Deployment"} {
		k := apitest.Kind(t, c.Kinds(), kind)
		old, _ := apitest.Create(t, c, k, "spec:"+selected)
		bad := apitest.Read(t, c, k, "spec: {minReadySeconds: -1, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: nginx}]}}}")
		n := 0
		for _, e := range k.ValidateUpdate(bad, old) {
			if e.Field == "spec.minReadySeconds" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: said %d times, want once", kind, n)
		}
	}
}

// A mount may name the volume that pods get from a claim template.
func TestStatefulSetClaimsAreVolumes(t *testing.T) {
	spec := func(volume string) string {
		return `
spec:
  serviceName: s
  selector: {matchLabels: {app: a}}
  template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i, volumeMounts: [{name: ` + volume + `, mountPath: /d}]}]}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]`
	}
	apitest.Check(t, apps.Kinds(), "StatefulSet", []apitest.Case{
		{"its claim", spec("data"), ""},
		{"no claim", spec("other"), "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"other\""},
	})
}

func TestControllerRevision(t *testing.T) {
	apitest.Check(t, apps.Kinds(), "ControllerRevision", []apitest.Case{
		{"fine", "data: {spec: 1}\nrevision: 3", ""},
		{"no data", "revision: 1", "data is mandatory"},
		{"a text", "data: text\nrevision: -1", "revision: Invalid value: -1\ndata must be a valid JSON object"},
	})
}

func TestRows(t *testing.T) {
	c := apitest.Catalogue(t, apps.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Deployment")
	obj, _ := apitest.Create(t, c, k, "metadata: {name: d}\nspec:"+selected)
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	obj.SetCreationTimestamp(metav1.NewTime(now.Add(-5 * time.Minute)))
	row := k.Row(obj, now)
	want := []any{"d", "0/1", int64(0), int64(0), "5m", "c", "nginx", "app=a"}
	for i := range want {
		if row[i] != want[i] {
			t.Errorf("%s is %v, want %v", k.Columns[i].Name, row[i], want[i])
		}
	}
}
