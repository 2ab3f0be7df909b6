package job

import (
	"fmt"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes, kept as sorted runs that do not touch, because a Job may have many.
type indexes []run

type run struct{ first, last int }

// parseIndexes reads the form of status.completedIndexes ("1,3-5,7") up to, but without, limit. What does not parse is left out: it is our own
// writing, or somebody wrote to the status.
func parseIndexes(text string, limit int) indexes {
	var set indexes
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first < 0 || first >= limit {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(to); err != nil || last < first {
				continue
			}
		}
		set = set.with(first, min(last, limit-1))
	}
	return set
}

// with returns the set with the run added.
func (s indexes) with(first, last int) indexes {
	out := make(indexes, 0, len(s)+1)
	for i, r := range s {
		switch {
		case r.last+1 < first:
			out = append(out, r)
		case last+1 < r.first:
			return append(append(out, run{first, last}), s[i:]...)
		default:
			first, last = min(first, r.first), max(last, r.last)
		}
	}
	return append(out, run{first, last})
}

func (s indexes) has(i int) bool {
	for _, r := range s {
		if i <= r.last {
			return r.first <= i
		}
	}
	return false
}

func (s indexes) total() int {
	n := 0
	for _, r := range s {
		n += r.last - r.first + 1
	}
	return n
}

// String writes the set: three or more in a row as a range.
func (s indexes) String() string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(r.first))
		switch {
		case r.last == r.first+1:
			b.WriteString("," + strconv.Itoa(r.last))
		case r.last > r.first:
			b.WriteString("-" + strconv.Itoa(r.last))
		}
	}
	return b.String()
}

// pending returns the first n indexes below completions that are in none of the sets.
func pending(n, completions int, not func(int) bool) []int {
	var out []int
	for i := 0; i < completions && len(out) < n; i++ {
		if !not(i) {
			out = append(out, i)
		}
	}
	return out
}

func isIndexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// maxGenerateName is how long the given part of a generated name may be, in bytes.
const maxGenerateName = 58

// noIndex is the index of a pod that has none, or not a valid one.
const noIndex = -1

// indexOf returns a pod's completion index.
func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

// failuresBefore returns how many counted failures the index of a pod had when the pod was made, and how many that its policy ignored.
func failuresBefore(p *corev1.Pod) (counted, ignored int) {
	return annotated(p, batchv1.JobIndexFailureCountAnnotation), annotated(p, ignoredFailures)
}

// ignoredFailures counts the failures of an index that the failure policy ignored; upstream's name.
const ignoredFailures = "batch.kubernetes.io/job-index-ignored-failure-count"

func annotated(p *corev1.Pod, name string) int {
	n, err := strconv.Atoi(p.Annotations[name])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// giveIndex makes a pod the one of an index of its Job: its annotations and label, the environment variable of its containers, its host name.
func giveIndex(p *corev1.Pod, j *batchv1.Job, index int) {
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = strconv.Itoa(index)
	p.Labels[batchv1.JobCompletionIndexAnnotation] = strconv.Itoa(index)
	prefix := fmt.Sprintf("%s-%d", j.Name, index)
	suffix := fmt.Sprintf("-%d-", index)
	p.GenerateName = j.Name[:min(len(j.Name), maxGenerateName-len(suffix))] + suffix // the index is not to be cut off
	p.Spec.Hostname = prefix
	variable := corev1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"}}}
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if !hasEnv(c, variable.Name) {
				c.Env = append(c.Env, variable)
			}
		}
	}
}

func hasEnv(c *corev1.Container, name string) bool {
	for i := range c.Env {
		if c.Env[i].Name == name {
			return true
		}
	}
	return false
}
