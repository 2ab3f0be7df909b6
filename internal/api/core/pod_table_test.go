package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func mustQuantity(s string) resource.Quantity { return resource.MustParse(s) }

func TestPodRow(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	const spec = `"spec":{"containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"},{"name":"j"}]}`
	for _, c := range []struct {
		name, text string
		want       []string // ready, status, restarts
	}{
		{"pending", `{` + spec + `,"status":{"phase":"Pending"}}`, []string{"0/3", "Pending", "0"}},
		{"a reason", `{` + spec + `,"status":{"phase":"Failed","reason":"Evicted"}}`, []string{"0/3", "Evicted", "0"}},
		{"gated", `{` + spec + `,"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}}`, []string{"0/3", "SchedulingGated", "0"}},
		{"first init container", `{` + spec + `,"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"running":{}}},{"name":"s"},{"name":"j"}]}}`, []string{"0/3", "Init:0/3", "0"}},
		{"init container failed", `{` + spec + `,"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":2,"lastState":{"terminated":{"finishedAt":"2030-01-01T11:58:00Z"}},"state":{"terminated":{"exitCode":3}}}]}}`,
			[]string{"0/3", "Init:ExitCode:3", "2 (2m ago)"}},
		{"init container killed", `{` + spec + `,"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":3,"signal":9}}}]}}`, []string{"0/3", "Init:Signal:9", "0"}},
		{"init container waits", `{` + spec + `,"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"waiting":{"reason":"ImagePullBackOff"}}}]}}`, []string{"0/3", "Init:ImagePullBackOff", "0"}},
		{"sidecar runs", `{` + spec + `,"status":{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{}}},{"name":"s","ready":true,"started":true,"restartCount":4,"state":{"running":{}}},
			{"name":"j","state":{"waiting":{"reason":"PodInitializing"}}}]}}`, []string{"1/3", "Init:2/3", "4"}},
		{"running", `{` + spec + `,"status":{"phase":"Running","initContainerStatuses":[{"name":"i","restartCount":7,"state":{"terminated":{}}},{"name":"s","ready":true,"started":true,"restartCount":4,"state":{"running":{}}},{"name":"j","state":{"terminated":{}}}],
			"containerStatuses":[{"name":"a","ready":true,"restartCount":1,"state":{"running":{}}},{"name":"b","ready":true,"restartCount":2,"lastState":{"terminated":{"finishedAt":"2030-01-01T10:00:00Z"}},"state":{"running":{}}}]}}`,
			[]string{"3/3", "Running", "7 (120m ago)"}},
		{"one crashes", `{"spec":{"containers":[{},{}]},"status":{"phase":"Running","containerStatuses":[{"ready":true,"state":{"running":{}}},{"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}}`, []string{"1/2", "CrashLoopBackOff", "0"}},
		{"completed", `{"spec":{"containers":[{}]},"status":{"phase":"Succeeded","containerStatuses":[{"state":{"terminated":{"reason":"Completed"}}}]}}`, []string{"0/1", "Completed", "0"}},
		{"one completed", `{"spec":{"containers":[{},{}]},"status":{"phase":"Running","containerStatuses":[{"state":{"terminated":{"reason":"Completed"}}},{"ready":true,"state":{"running":{}}}]}}`, []string{"1/2", "NotReady", "0"}},
		{"one completed, ready", `{"spec":{"containers":[{},{}]},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"state":{"terminated":{"reason":"Completed"}}},{"ready":true,"state":{"running":{}}}]}}`, []string{"1/2", "Running", "0"}},
		{"exit code", `{"spec":{"containers":[{}]},"status":{"phase":"Failed","containerStatuses":[{"state":{"terminated":{"exitCode":2}}}]}}`, []string{"0/1", "ExitCode:2", "0"}},
		{"being deleted", `{"metadata":{"deletionTimestamp":"2030-01-01T11:00:00Z"},"spec":{"containers":[{}]},"status":{"phase":"Running"}}`, []string{"0/1", "Terminating", "0"}},
		{"deleted after its end", `{"metadata":{"deletionTimestamp":"2030-01-01T11:00:00Z"},"spec":{"containers":[{}]},"status":{"phase":"Failed"}}`, []string{"0/1", "Failed", "0"}},
		{"lost", `{"metadata":{"deletionTimestamp":"2030-01-01T11:00:00Z"},"spec":{"containers":[{}]},"status":{"phase":"Running","reason":"NodeLost"}}`, []string{"0/1", "Unknown", "0"}},
		{"restarted init container of a pod that was ready", `{` + spec + `,"status":{"phase":"Running","conditions":[{"type":"Initialized","status":"True"}],"initContainerStatuses":[{"name":"i","state":{"waiting":{}}}],
			"containerStatuses":[{"name":"a","state":{"waiting":{"reason":"ContainerCreating"}}}]}}`, []string{"0/3", "ContainerCreating", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := decodePod(t, c.text)
			row := podRow(p, now)
			var got []string
			for _, cell := range row[1:4] {
				got = append(got, fmt.Sprint(cell))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(row) != len(podColumns()) {
				t.Errorf("%d cells for %d columns", len(row), len(podColumns()))
			}
		})
	}
}

func TestPodRowWide(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	p := decodePod(t, `{"metadata":{"name":"p","creationTimestamp":"2030-01-01T11:55:00Z"},"spec":{"containers":[{}],"nodeName":"n","readinessGates":[{"conditionType":"a"},{"conditionType":"b"}]},
		"status":{"phase":"Running","podIPs":[{"ip":"1.1.1.1"}],"conditions":[{"type":"b","status":"True"}]}}`)
	want := []any{"p", "0/1", "Running", "0", "5m", "1.1.1.1", "n", "<none>", "1/2"}
	if got := podRow(p, now); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPodRowConditions(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]string{corev1.PodSucceeded: "The pod has completed successfully.", corev1.PodFailed: "The pod failed.", corev1.PodRunning: ""} {
		c := podRowConditions(&corev1.Pod{Status: corev1.PodStatus{Phase: phase}})
		if (want == "") != (len(c) == 0) || (want != "" && (c[0].Message != want || c[0].Type != metav1.RowCompleted || c[0].Reason != string(phase))) {
			t.Errorf("%s: %v", phase, c)
		}
	}
}
