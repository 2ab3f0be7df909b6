package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	clientgotesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"
)

// TestEditIsThePatch: what is given to the server in this process is what the patch makes of any pod that any server has, and leaves the pod alone.
func TestEditIsThePatch(t *testing.T) {
	kind := rapid.SampledFrom([]v1.PodConditionType{v1.PodScheduled, v1.DisruptionTarget, v1.PodReady})
	word := rapid.SampledFrom([]string{"", "A", "B"})
	draw := func(t *rapid.T, what v1.PodConditionType) v1.PodCondition {
		return v1.PodCondition{
			Type: what, Status: rapid.SampledFrom([]v1.ConditionStatus{v1.ConditionTrue, v1.ConditionFalse}).Draw(t, "status"), Reason: word.Draw(t, "reason"), Message: word.Draw(t, "message"),
			ObservedGeneration: rapid.Int64Range(0, 2).Draw(t, "generation"), LastTransitionTime: metav1.Unix(rapid.Int64Range(1, 3).Draw(t, "time"), 0),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pod := newPod("p", podLabels("app", "a"), requesting("cpu", "1"))
		pod.Status.NominatedNodeName = word.Draw(t, "nominated")
		for _, what := range rapid.SliceOfDistinct(kind, rapid.ID[v1.PodConditionType]).Draw(t, "conditions") {
			pod.Status.Conditions = append(pod.Status.Conditions, draw(t, what))
		}
		before := pod.DeepCopy()
		var c statusChange
		if rapid.Bool().Draw(t, "condition") {
			c.condition = draw(t, kind.Draw(t, "type"))
		}
		if rapid.Bool().Draw(t, "nominate") {
			name := word.Draw(t, "for")
			c.nominate = &name
		}
		patch, err := c.patch(pod.UID)
		if err != nil {
			t.Fatal(err)
		}
		old, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := strategicpatch.StrategicMergePatch(old, patch, v1.Pod{})
		if err != nil {
			t.Fatal(err)
		}
		var want, got v1.Pod
		if err := json.Unmarshal(merged, &want); err != nil {
			t.Fatal(err)
		}
		edited, err := json.Marshal(c.edited(pod.UID, pod))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(edited, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s\nmakes     %s\nthe patch %s", patch, edited, merged)
		}
		if !reflect.DeepEqual(pod, before) {
			t.Fatalf("%v has become %v", before, pod)
		}
		if other := c.edited("other", pod); other.UID != "other" || (len(other.Status.Conditions) == 0) != (other.Status.Conditions == nil) {
			t.Fatalf("%v", other)
		}
	})
}

// direct is a Poster over the simulated API. What it is given it keeps for itself.
type direct struct {
	b *bench
	// patching, if set, is called before a status is changed; parted with what a pod is when it has been deleted.
	patching func(pod string)
	parted   func(pod *v1.Pod)
}

var podsResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

func (d *direct) Post(ctx context.Context, path string, obj runtime.Object) error {
	if binding, ok := obj.(*v1.Binding); ok && path == "/api/v1/namespaces/default/pods/"+binding.Name+"/binding" {
		return d.b.client.CoreV1().Pods("default").Bind(ctx, binding, metav1.CreateOptions{})
	}
	return errors.New(path)
}

func (d *direct) Patch(ctx context.Context, path string, edit func(runtime.Object) (runtime.Object, error), encode func() ([]byte, error)) error {
	data, err := encode()
	if err != nil {
		return err
	}
	var patch v1.Pod
	if err := json.Unmarshal(data, &patch); err != nil {
		return err
	}
	name := string(patch.UID[len("uid-"):])
	if path != "/api/v1/namespaces/default/pods/"+name+"/status" {
		return errors.New(path)
	}
	if d.patching != nil {
		d.patching(name)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	obj, err := d.b.client.Tracker().Get(podsResource, "default", name)
	if err != nil {
		return err
	}
	next, err := edit(obj)
	if err != nil {
		return err
	}
	return d.b.client.Tracker().Update(podsResource, next, "default")
}

func (d *direct) Delete(ctx context.Context, path string, o *metav1.DeleteOptions, edit func(runtime.Object) (runtime.Object, error)) error {
	for _, p := range []string{"x", "y", "z"} {
		if path == "/api/v1/namespaces/default/pods/"+p {
			if o.Preconditions == nil || *o.Preconditions.UID != types.UID("uid-"+p) {
				return errors.New("without its UID")
			}
			return d.part(ctx, p, o, edit)
		}
	}
	return errors.New(path)
}

// part deletes a pod and changes its status, as one step as far as others see.
func (d *direct) part(ctx context.Context, name string, o *metav1.DeleteOptions, edit func(runtime.Object) (runtime.Object, error)) error {
	before, err := d.b.client.Tracker().Get(podsResource, "default", name)
	if err != nil {
		return err
	}
	if err := d.b.client.CoreV1().Pods("default").Delete(ctx, name, *o); err != nil {
		return err
	}
	after, err := d.b.client.Tracker().Get(podsResource, "default", name)
	gone := apierrors.IsNotFound(err)
	if gone {
		after = before
	} else if err != nil {
		return err
	}
	if edit != nil {
		if after, err = edit(after); err != nil {
			return err
		}
		if !gone {
			if err := d.b.client.Tracker().Update(podsResource, after, "default"); err != nil {
				return err
			}
		}
	}
	if d.parted != nil {
		d.parted(after.(*v1.Pod))
	}
	return nil
}

// TestEvictsDirectly: with a Poster victims are told why as they go, and nobody is told twice.
func TestEvictsDirectly(t *testing.T) {
	d := &direct{}
	var mu sync.Mutex
	told := map[string]int{}
	d.patching = func(pod string) {
		if pod != "p" {
			t.Errorf("the status of %s is written by itself", pod)
		}
	}
	d.parted = func(pod *v1.Pod) {
		mu.Lock()
		defer mu.Unlock()
		if c := pod.Status.Conditions; len(c) == 1 && c[0].Type == v1.DisruptionTarget && c[0].Reason == v1.PodReasonPreemptionByScheduler {
			told[pod.Name]++
		}
	}
	runWith(t, Config{Poster: d}, func(b *bench) {
		b.lingers("x", 30*time.Second)
		fail := 1
		b.client.PrependReactor("delete", "pods", func(a clientgotesting.Action) (bool, runtime.Object, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if a.(clientgotesting.DeleteAction).GetName() != "y" {
				return false, nil, nil
			}
			fail--
			return fail >= 0, nil, apierrors.NewInternalError(errors.New("boom"))
		})
		d.b = b
		b.create(newPod("p", requesting("cpu", "3"), priority(10)))
		b.pass(time.Minute)
		b.on("a", "p")
		for _, name := range []string{"x", "y", "z"} {
			b.gone(name)
			if told[name] != 1 {
				b.Errorf("%s was told %d times", name, told[name])
			}
		}
		if b.seen("p Warning FailedScheduling "+strings.Replace(preempting, "1 victims", "3 victims", 1)) == 0 || b.seen("z Normal Preempted Preempted by pod uid-p on node a") != 1 {
			b.Errorf("%q", b.events)
		}
	}, newNode("a", "3", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")), newPod("y", on("a"), requesting("cpu", "1")), newPod("z", on("a"), requesting("cpu", "1")))
}

// TestReportsEnd: while it is being told that a pod has no node, the pod isn't bound; what waits to be told is dropped when it has one.
func TestReportsEnd(t *testing.T) {
	d := &direct{}
	told := 0
	d.patching = func(pod string) {
		if pod == "p" {
			told++
			time.Sleep(time.Minute)
		}
	}
	runWith(t, Config{Poster: d}, func(b *bench) {
		d.b = b
		b.create(newPod("p", requesting("cpu", "2")))
		b.pass(time.Second)
		b.addNode(newNode("b", "1", "1Gi")) // it is tried again and refused once more
		b.pass(time.Second)
		b.addNode(newNode("c", "2", "1Gi"))
		b.pass(30 * time.Second)
		b.on("", "p")
		b.pass(time.Minute)
		b.on("c", "p")
		b.pass(10 * time.Minute)
		if got := b.condition("p"); told != 1 || !strings.HasPrefix(got, "False Unschedulable 0/1 ") { // the simulated binding sets no condition
			b.Errorf("told %d times: %s", told, got)
		}
	}, newNode("a", "1", "1Gi"))
}
