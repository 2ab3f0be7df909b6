package batch_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/batch"
)

// TestJobStatus: a status after another; what is said is "" for nothing, else a part of each complaint, one a line.
func TestJobStatus(t *testing.T) {
	c := apitest.Catalogue(t, batch.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Job")
	const (
		plain   = "{}"
		indexed = "{completions: 5, parallelism: 2, completionMode: Indexed, backoffLimitPerIndex: 1}"
		start   = "startTime: 2026-01-01T00:00:00Z"
		ended   = start + ", completionTime: 2026-01-01T00:01:00Z, conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]"
	)
	for _, x := range []struct{ name, spec, was, now, told string }{
		{"complete", plain, "{" + start + "}", "{" + ended + "}", ""},
		{"nothing new about a bad one", plain, "{conditions: [{type: Complete, status: 'True'}]}", "{conditions: [{type: Complete, status: 'True'}], failed: 1}", ""},
		{"reopened", plain, "{" + ended + "}", "{" + start + "}",
			"cannot disable the terminal Complete=True condition\ncannot disable the SuccessCriteriaMet=True condition"},
		{"failed without a reason", plain, "{" + start + "}", "{" + start + ", conditions: [{type: Failed, status: 'True'}]}", "without the FailureTarget=true"},
		{"both ways", plain, "{" + start + "}", "{" + start + ", conditions: [{type: FailureTarget, status: 'True'}, {type: SuccessCriteriaMet, status: 'True'}]}",
			"cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"},
		{"never started", plain, "{}", "{conditions: [{type: FailureTarget, status: 'True'}, {type: Failed, status: 'True'}]}", "startTime is required for finished job"},
		{"started again", plain, "{" + start + "}", "{startTime: 2026-01-02T00:00:00Z}", "field is immutable for unsuspended job once set"},
		{"no longer started", plain, "{" + start + "}", "{}", "field is immutable for unsuspended job once set"},
		{"told to go on before the pause was seen", plain, "{" + start + ", conditions: [{type: Suspended, status: 'True'}]}",
			"{startTime: 2026-01-02T00:00:00Z, conditions: [{type: Suspended, status: 'False'}]}", ""},
		{"still paused", plain, "{" + start + ", conditions: [{type: Suspended, status: 'True'}]}",
			"{startTime: 2026-01-02T00:00:00Z, conditions: [{type: Suspended, status: 'True'}]}", "field is immutable for unsuspended job once set"},
		{"started again after a pause", "{suspend: true}", "{" + start + "}", "{}", ""},
		{"ends before it starts", plain, "{" + start + "}",
			"{" + strings.Replace(ended, "2026-01-01T00:01", "2025-01-01T00:01", 1) + "}", "must be equal to or after `startTime`"},
		{"fewer succeeded", plain, "{succeeded: 3}", "{succeeded: 2}", "cannot decrease the succeeded counter"},
		{"uncounted twice", plain, "{}", "{uncountedTerminatedPods: {succeeded: [a, a], failed: [a, '']}}", "succeeded[1]: Duplicate\nfailed[0]: Duplicate\nfailed[1]: Invalid value: \"\": must not be empty"},
		{"indexes", indexed, "{}", "{completedIndexes: '0,2-3', failedIndexes: '1'}", ""},
		{"no indexes", plain, "{}", "{completedIndexes: '0'}", "cannot set non-empty completedIndexes when non-indexed completion mode"},
		{"too large an index", indexed, "{}", "{completedIndexes: '3-7'}", `error parsing completedIndexes: too large index: "7"`},
		{"in the order of upstream", plain, "{" + start + "}",
			"{conditions: [{type: FailureTarget, status: 'True'}, {type: Failed, status: 'True'}, {type: SuccessCriteriaMet, status: 'True'}], active: 1, ready: 2, terminating: 1, completedIndexes: '0', uncountedTerminatedPods: {failed: [a]}}",
			"active>0 is invalid for finished job\nstartTime is required for finished job\nmust be empty for finished job\ncannot set non-empty completedIndexes\nterminating>0 is invalid for finished job\n" +
				"cannot set more ready pods than active\ncannot set SuccessCriteriaMet=True and Failed=true conditions\ncannot set SuccessCriteriaMet=True and FailureTarget=true conditions\n" +
				"field is immutable for unsuspended job once set"},
		{"success that nothing announced", "{completions: 3, parallelism: 3, completionMode: Indexed, successPolicy: {rules: [{succeededCount: 1}]}}", "{" + start + "}",
			"{" + strings.Replace(ended, "{type: SuccessCriteriaMet, status: 'True'}, ", "", 1) + "}",
			"cannot set Complete=True condition without the SuccessCriteriaMet=true condition\ncannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"},
		{"announced too late", plain, "{conditions: [{type: Complete, status: 'True'}], completionTime: 2026-01-01T00:01:00Z}",
			"{conditions: [{type: Complete, status: 'True'}, {type: SuccessCriteriaMet, status: 'True'}], completionTime: 2026-01-01T00:01:00Z}",
			"cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"},
		{"overlap beside what can't be read", indexed, "{}", "{completedIndexes: 'x,1', failedIndexes: '1'}", "error parsing completedIndexes\noverlap at index: 1"},
		{"failed and completed", indexed, "{}", "{completedIndexes: '0-2', failedIndexes: '2'}", "overlap at index: 2"},
	} {
		t.Run(x.name, func(t *testing.T) {
			read := func(status string) *batchv1.Job {
				obj, _ := apitest.Create(t, c, k, "spec: "+x.spec)
				j := obj.(*batchv1.Job)
				if err := yaml.UnmarshalStrict([]byte(status), &j.Status); err != nil {
					t.Fatal(err)
				}
				return j
			}
			errs := k.ValidateStatusUpdate(read(x.now), read(x.was))
			var want []string
			if x.told != "" {
				want = strings.Split(x.told, "\n")
			}
			if len(errs) != len(want) {
				t.Fatalf("complaints:\n%s\nwant:\n%s", apitest.Text(errs), x.told)
			}
			for i := range want {
				if !strings.Contains(errs[i].Error(), want[i]) {
					t.Errorf("complaint %q, want %q", errs[i], want[i])
				}
			}
		})
	}
}
