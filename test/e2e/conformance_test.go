package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// The tests of the files conformance_*_test.go ask what Kubernetes' conformance tests ask of a cluster (docs/conformance.md), with client-go
// and in few pods: one pod answers many questions.

// stage is a user who works with client-go.
type stage struct {
	*user
	ctx context.Context
	c   kubernetes.Interface
}

func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	u := newUser(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // for all that the test awaits together
	t.Cleanup(cancel)
	return &stage{u, ctx, u.client()}
}

// read fills an object from YAML, strictly.
func read[T any](t *testing.T, document string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(document), o); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	return o
}

// fine ends the test if something went wrong.
func fine(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run creates a pod from its spec. IMAGE is busybox; a pod that says nothing else ends at once when it is deleted.
func (s *stage) run(name, spec string) *corev1.Pod {
	s.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *read[corev1.PodSpec](s.t, strings.ReplaceAll(spec, "IMAGE", busybox))}
	return s.create(pod)
}

func (s *stage) create(pod *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		pod.Spec.TerminationGracePeriodSeconds = new(int64)
	}
	made, err := s.c.CoreV1().Pods(s.ns).Create(s.ctx, pod, metav1.CreateOptions{})
	fine(s.t, err)
	return made
}

// script is the spec of a pod that runs a shell script once, with its volumes and whatever else the rest says.
func script(text, rest string) string {
	return fmt.Sprintf("restartPolicy: Never\ncontainers: [{name: c, image: IMAGE, command: [sh, -c, %q]}]\n%s", text, rest)
}

// until asks until what is asked for is so. The check returns "" then, and else what it saw.
func (s *stage) until(what string, check func() (string, error)) {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		saw, err := check()
		if err == nil && saw == "" {
			return
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			s.t.Fatalf("%s: in the end %s %v", what, saw, err)
		}
	}
}

// follow watches a pod until the condition holds.
func (s *stage) follow(name, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
	s.t.Helper()
	pod, err := s.c.CoreV1().Pods(s.ns).Get(s.ctx, name, metav1.GetOptions{})
	fine(s.t, err)
	for !holds(pod) {
		w, err := s.c.CoreV1().Pods(s.ns).Watch(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: pod.ResourceVersion})
		if err != nil {
			s.t.Fatalf("waiting for pod %s %s: %v", name, what, err)
		}
		for e := range w.ResultChan() {
			if e.Type == watch.Deleted {
				s.t.Fatalf("waiting for pod %s %s: it was deleted", name, what)
			}
			next, ok := e.Object.(*corev1.Pod)
			if !ok {
				s.t.Fatalf("waiting for pod %s %s: %v", name, what, e.Object)
			}
			if pod = next; holds(pod) {
				break
			}
		}
		w.Stop()
		if s.ctx.Err() != nil {
			s.t.Fatalf("waiting for pod %s %s: in the end %s", name, what, shown(pod))
		}
	}
	return pod
}

// shown is an object as YAML.
func shown(o any) string {
	text, err := yaml.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// ready waits for a pod to be ready.
func (s *stage) ready(name string) *corev1.Pod {
	s.t.Helper()
	return s.follow(name, "to be ready", func(p *corev1.Pod) bool { return conditionOf(p, corev1.PodReady).Status == corev1.ConditionTrue })
}

// conditionOf is a pod's condition, empty if it has none of that type.
func conditionOf(p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// ended waits for a pod to end and fails the test unless it ended in this phase.
func (s *stage) ended(name string, phase corev1.PodPhase) *corev1.Pod {
	s.t.Helper()
	pod := s.follow(name, "to end", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if pod.Status.Phase != phase {
		s.t.Fatalf("pod %s: %s, want %s\n%s\n%s", name, pod.Status.Phase, phase, shown(pod.Status), s.log(name, &corev1.PodLogOptions{}))
	}
	return pod
}

// log is what a pod printed.
func (s *stage) log(name string, o *corev1.PodLogOptions) string {
	s.t.Helper()
	r, err := s.c.CoreV1().Pods(s.ns).GetLogs(name, o).Stream(s.ctx)
	if err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	_ = r.Close()
	fine(s.t, err)
	return b.String()
}

// prints waits for the end of a pod that succeeds and compares what it printed, line by line as like does.
func (s *stage) prints(name string, lines ...string) {
	s.t.Helper()
	s.ended(name, corev1.PodSucceeded)
	like(s.t, s.log(name, &corev1.PodLogOptions{}), lines...)
}

// config and secret make sources of data.
func (s *stage) config(name string, data map[string]string) *corev1.ConfigMap {
	s.t.Helper()
	m, err := s.c.CoreV1().ConfigMaps(s.ns).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	fine(s.t, err)
	return m
}

func (s *stage) secret(name string, data map[string]string) *corev1.Secret {
	s.t.Helper()
	m, err := s.c.CoreV1().Secrets(s.ns).Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{})
	fine(s.t, err)
	return m
}
