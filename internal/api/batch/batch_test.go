package batch_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/batch"
)

const template = "\n  template: {spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}"

func TestJob(t *testing.T) {
	indexed := "metadata: {name: a}\nspec:\n  completionMode: Indexed\n  completions: 5" + template
	apitest.Check(t, batch.Kinds(), "Job", []apitest.Case{
		{"minimal", "metadata: {name: a}\nspec:" + template, ""},
		{"pods that never end", "metadata: {name: a}\nspec:\n  template: {spec: {containers: [{name: c, image: nginx}]}}",
			`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		{"negative", "metadata: {name: a}\nspec:\n  parallelism: -1\n  completions: -1\n  activeDeadlineSeconds: -1\n  backoffLimit: -1\n  ttlSecondsAfterFinished: -1" + template,
			"spec.parallelism\nspec.completions\nspec.activeDeadlineSeconds\nspec.backoffLimit\nspec.ttlSecondsAfterFinished"},
		{"indexed without completions", "spec:\n  completionMode: Indexed\n  parallelism: 1" + template, "spec.completions: Required value: when completion mode is Indexed"},
		{"limits per index of no index", "spec:\n  backoffLimitPerIndex: 1\n  maxFailedIndexes: 1" + template,
			"spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode\nspec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode"},
		{"failed indexes alone", indexed + "\n  maxFailedIndexes: 9", "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified\nspec.maxFailedIndexes: Invalid value: 9: must be less than or equal to completions"},
		{"its own selector", "metadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}" + template,
			"spec.selector: Invalid value\n`selector` does not match template `labels`"},
		{"a selector by hand", "metadata: {name: a}\nspec:\n  manualSelector: true\n  selector: {matchLabels: {a: b}}\n" +
			"  template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}", ""},
		{"manager", "spec:\n  managedBy: me" + template, "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path"},
		{"exit codes", "spec:\n  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, containerName: x, values: [0, 7, 7, 3]}}]}" + template,
			"containerName: Invalid value: \"x\": must be one of the container\nvalues[0]: Invalid value: 0: must not be 0 for the In operator\nvalues[2]: Duplicate value: 7\nvalues: Invalid value: [0,7,7,3]: must be ordered"},
		{"a rule of nothing", "spec:\n  podFailurePolicy: {rules: [{action: Count}]}" + template, "specifying one of OnExitCodes and OnPodConditions is required"},
		{"a failed index of no limit", "spec:\n  podFailurePolicy: {rules: [{action: FailIndex, onPodConditions: [{type: A}]}]}" + template, "requires the backoffLimitPerIndex to be set"},
		{"no host names", "metadata: {name: a.b}\nspec:\n  completionMode: Indexed\n  completions: 11" + template,
			`metadata.name: Invalid value: "a.b": will not able to create pod with invalid DNS label: a.b-10`},
		{"an action that is missing", "spec:\n  podFailurePolicy: {rules: [{onPodConditions: [{type: A, status: \"\"}]}]}" + template,
			`action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`},
		{"more than no success", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '9', succeededCount: 1}]}",
			"too large index: \"9\"\nsucceededCount: Invalid value: 1: must be less than or equal to 0 (the number of indexes"},
		{"success", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '0,2-4', succeededCount: 3}]}", ""},
		{"success of no index", "spec:\n  successPolicy: {rules: [{succeededCount: 1}]}" + template, "requires indexed completion mode"},
		{"too much success", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '1-2', succeededCount: 3}]}", "must be less than or equal to 2 (the number of indexes"},
		{"indexes that shrink", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '3,1'}]}", "non-increasing order, previous: 3, current: 1"},
		{"an index that is none", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '1-x'}]}", `cannot convert string to integer for index: "x"`},
		{"an index too large", indexed + "\n  successPolicy: {rules: [{succeededIndexes: '5'}]}", `too large index: "5"`},
	})
}

func TestJobIsFilledIn(t *testing.T) {
	c := apitest.Catalogue(t, batch.Kinds())
	obj, errs := apitest.Create(t, c, apitest.Kind(t, c.Kinds(), "Job"), "metadata: {name: pi}\nspec:\n  backoffLimitPerIndex: 1\n  completionMode: Indexed\n  completions: 2"+template)
	if len(errs) > 0 {
		t.Fatal(apitest.Text(errs))
	}
	j := obj.(*batchv1.Job)
	if *j.Spec.Parallelism != 1 || *j.Spec.BackoffLimit != 1<<31-1 || *j.Spec.PodReplacementPolicy != batchv1.TerminatingOrFailed {
		t.Errorf("parallelism %d, backoff %d, replacement %s", *j.Spec.Parallelism, *j.Spec.BackoffLimit, *j.Spec.PodReplacementPolicy)
	}
	uid := string(j.UID)
	for key, want := range map[string]string{"controller-uid": uid, "batch.kubernetes.io/controller-uid": uid, "job-name": "pi", "batch.kubernetes.io/job-name": "pi"} {
		if got := j.Spec.Template.Labels[key]; got != want {
			t.Errorf("template label %s is %q, want %q", key, got, want)
		}
		if got := j.Labels[key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	if got := j.Spec.Selector.MatchLabels; len(got) != 1 || got["batch.kubernetes.io/controller-uid"] != uid {
		t.Errorf("selector %v", got)
	}
}

// TestLabelsOfJob: labels that a job has from its template say whose pods they are, too; those of its own don't.
func TestLabelsOfJob(t *testing.T) {
	const labeled = "\n  template: {metadata: {labels: {app: a}}, spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"of its own", "metadata: {name: pi, labels: {b: c}}\nspec:" + labeled, []string{"b"}},
		{"of its template", "metadata: {name: pi}\nspec:" + labeled, []string{"app", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"}},
		{"none", "metadata: {name: pi}\nspec:" + template, []string{"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"}},
		{"of its template, with a selector by hand", "metadata: {name: pi}\nspec:\n  manualSelector: true\n  selector: {matchLabels: {app: a}}" + labeled, []string{"app"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := apitest.Catalogue(t, batch.Kinds())
			obj, errs := apitest.Create(t, c, apitest.Kind(t, c.Kinds(), "Job"), tt.text)
			if len(errs) > 0 {
				t.Fatal(apitest.Text(errs))
			}
			if got := slices.Sorted(maps.Keys(obj.(*batchv1.Job).Labels)); !slices.Equal(got, tt.want) {
				t.Errorf("labels %v, want %v", got, tt.want)
			}
		})
	}
}

// TestJobUpdate: what the pods of a job are made of stays, but for what a queue may still say before the first start.
func TestJobUpdate(t *testing.T) {
	c := apitest.Catalogue(t, batch.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Job")
	made := func(t *testing.T, suspended string) (*batchv1.Job, *batchv1.Job) {
		obj, errs := apitest.Create(t, c, k, "metadata: {name: pi}\nspec:\n  suspend: "+suspended+template)
		if len(errs) > 0 {
			t.Fatal(apitest.Text(errs))
		}
		j := obj.(*batchv1.Job)
		return j, j.DeepCopy()
	}
	node := func(j *batchv1.Job) { j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"} }
	for _, x := range []struct {
		name, suspended string
		change          func(*batchv1.Job)
		want            string
	}{
		{"nothing", "false", func(*batchv1.Job) {}, ""},
		{"parallelism", "false", func(j *batchv1.Job) { *j.Spec.Parallelism = 7 }, ""},
		{"completions", "false", func(j *batchv1.Job) { *j.Spec.Completions = 7 }, "spec.completions: Invalid value: 7: field is immutable"},
		// What a job becomes says whether its completions may change.
		{"mode and completions", "false", func(j *batchv1.Job) {
			*j.Spec.CompletionMode, *j.Spec.Parallelism, *j.Spec.Completions = batchv1.IndexedCompletion, 7, 7
		}, "spec.completionMode: Invalid value: \"Indexed\": field is immutable"},
		{"mode", "false", func(j *batchv1.Job) { *j.Spec.CompletionMode = batchv1.IndexedCompletion }, "spec.completionMode: Invalid value"},
		{"image", "false", func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "b" }, "spec.template: Invalid value"},
		{"node selector while it runs", "false", node, "spec.template: Invalid value"},
		{"node selector while it waits", "true", node, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			j, old := made(t, x.suspended)
			x.change(j)
			if got := apitest.Text(k.ValidateUpdate(j, old)); got != x.want && (x.want == "" || !strings.Contains(got, x.want)) {
				t.Errorf("got %q, want %q", got, x.want)
			}
		})
	}
}

func TestCronJob(t *testing.T) {
	job := "\n  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}}}"
	hourly := "spec:\n  schedule: '0 * * * *'" + job
	apitest.Check(t, batch.Kinds(), "CronJob", []apitest.Case{
		{"minimal", hourly, ""},
		{"before v1", "apiVersion: batch/v1beta1\n" + hourly, ""},
		{"a long name", "metadata: {name: " + strings.Repeat("a", 53) + "}\n" + hourly, "metadata.name: Invalid value"},
		{"never", "spec:" + job, "spec.schedule: Required value"},
		{"no schedule", "spec:\n  schedule: now" + job, "spec.schedule: Invalid value: \"now\""},
		{"a zone in the schedule", "spec:\n  schedule: TZ=UTC 0 * * * *" + job, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"},
		{"a zone", hourly + "\n  timeZone: Europe/Berlin", ""},
		{"here", hourly + "\n  timeZone: Local", "timeZone must be an explicit time zone"},
		{"here, in small letters", hourly + "\n  timeZone: local", "timeZone must be an explicit time zone\nunknown time zone local"},
		{"a zone by its parts", hourly + "\n  timeZone: America/Argentina/Buenos_Aires", ""},
		{"a zone as it once was written", hourly + "\n  timeZone: Etc/GMT+5", ""},
		{"a part too long", hourly + "\n  timeZone: Europe/abcdefghijklmno", "unknown time zone Europe/abcdefghijklmno"},
		{"no part", hourly + "\n  timeZone: Europe//Berlin", "unknown time zone Europe//Berlin"},
		{"a way out", hourly + "\n  timeZone: Europe/../UTC", "unknown time zone Europe/../UTC"},
		{"a dot", hourly + "\n  timeZone: ./UTC", "unknown time zone ./UTC"},
		{"a dash first", hourly + "\n  timeZone: Etc/-5", "unknown time zone Etc/-5"},
		{"a space", hourly + "\n  timeZone: 'UTC '", "unknown time zone UTC "},
		{"nowhere", hourly + "\n  timeZone: Mars/Olympus", "unknown time zone Mars/Olympus"},
		{"empty zone", hourly + "\n  timeZone: ''", "timeZone must be nil or non-empty string"},
		{"policy", hourly + "\n  concurrencyPolicy: Maybe", `spec.concurrencyPolicy: Unsupported value: "Maybe"`},
		{"negative", hourly + "\n  startingDeadlineSeconds: -1\n  successfulJobsHistoryLimit: -1\n  failedJobsHistoryLimit: -1",
			"spec.startingDeadlineSeconds\nspec.successfulJobsHistoryLimit\nspec.failedJobsHistoryLimit"},
		{"a selector by hand", "spec:\n  schedule: '@daily'\n  jobTemplate: {spec: {manualSelector: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: nginx}]}}}}",
			"spec.jobTemplate.spec.manualSelector: Unsupported value"},
	})
}

func TestRows(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := apitest.Catalogue(t, batch.Kinds())
	for _, x := range []struct{ kind, doc, want string }{
		{"Job", "metadata: {name: a, creationTimestamp: '2026-01-02T03:04:00Z'}\nspec:" + template + "\nstatus: {startTime: '2026-01-02T03:04:01Z', completionTime: '2026-01-02T03:04:04Z', succeeded: 1, conditions: [{type: Complete, status: 'True'}]}",
			"a|Complete|1/1|3s|5s|c|nginx|<none>"},
		{"Job", "metadata: {name: a}\nspec:\n  parallelism: 3" + template, "a|Running|0/1 of 3||<unknown>|c|nginx|<none>"},
		{"Job", "metadata: {name: a}\nspec:\n  completions: 3" + template + "\nstatus: {startTime: '2026-01-02T03:04:01Z', conditions: [{type: Failed, status: 'True', lastTransitionTime: '2026-01-02T03:04:03Z'}]}",
			"a|Failed|0/3|2s|<unknown>|c|nginx|<none>"},
		{"CronJob", "metadata: {name: a}\nspec:\n  schedule: '@daily'\n  suspend: true\n  jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: nginx}]}}}}\nstatus: {lastScheduleTime: '2026-01-02T03:04:00Z', active: [{name: b}]}",
			"a|@daily|<none>|True|1|5s|<unknown>|c|nginx|<none>"},
	} {
		k := apitest.Kind(t, c.Kinds(), x.kind)
		if got := apitest.Row(k, apitest.Read(t, c, k, x.doc), now); got != x.want {
			t.Errorf("%s is shown as\n%s, want\n%s", x.doc, got, x.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	c := apitest.Catalogue(t, batch.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Job")
	obj, _ := apitest.Create(t, c, k, "metadata: {name: a.b}\nspec:"+template)
	if got := k.Warnings(obj, nil); len(got) != 1 || !strings.HasPrefix(got[0], field.NewPath("metadata", "name").String()+": this is used in Pod names") {
		t.Errorf("warnings %q", got)
	}
}

// TestCronJobTemplate: the template of a cron job names no selector, and without a mode it counts no indexes.
func TestCronJobTemplate(t *testing.T) {
	job := func(more string) string {
		return "metadata: {name: a}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {" + more + "template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}"
	}
	apitest.Check(t, batch.Kinds(), "CronJob", []apitest.Case{
		{"plain", job(""), ""},
		{"a selector", job("selector: {matchLabels: {a: b}}, "), "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated"},
		{"conditions that are true", job("podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: a}]}]}, "), ""},
		{"indexes", job("backoffLimitPerIndex: 1, "), "spec.jobTemplate.spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"},
	})
}
