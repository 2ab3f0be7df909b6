package share

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
)

func podCodec(t testing.TB) api.Codec {
	t.Helper()
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	k, _, ok := c.ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	if !ok {
		t.Fatal("no pods")
	}
	return c.Codec(k)
}

func somePod(name, node, image, cpu, label, owner string) *corev1.Pod {
	amounts := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n"}}
	p.Spec = corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: image, Resources: corev1.ResourceRequirements{Requests: amounts}}}}
	if label != "" {
		p.Labels = map[string]string{"l": label}
	}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", UID: "u"}}
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: image}}
	return p
}

// A pod that shares is equal to what it was, and the pods that it shares with are, too.
func TestPodsStayEqual(t *testing.T) {
	codec := podCodec(t)
	var pods Pods
	var before, after []*corev1.Pod
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string, words ...string) string { return rapid.SampledFrom(words).Draw(t, label) }
		pod := somePod(draw("name", "a", "b"), draw("node", "", "x", "y"), draw("image", "", "i", "j"), draw("cpu", "1", "2"), draw("label", "", "1", "2"), draw("owner", "", "o"))
		value, err := codec.Append(nil, pod)
		if err != nil {
			t.Fatal(err)
		}
		before = append(before, pod.DeepCopy())
		pods.Share(pod, value)
		after = append(after, pod)
	})
	for i := range before {
		if !equality.Semantic.DeepEqual(before[i], after[i]) {
			t.Fatalf("%v\nbecame %v", before[i], after[i])
		}
	}
}

func TestPodsShare(t *testing.T) {
	codec := podCodec(t)
	var pods Pods
	made := make([]*corev1.Pod, 8)
	var wg sync.WaitGroup
	for i := range made {
		made[i] = somePod(fmt.Sprint("p", i), fmt.Sprint("node-", i), "image", "1", "web", "owner")
		value, err := codec.Append(nil, made[i])
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { pods.Share(made[i], value) })
	}
	wg.Wait()
	for i, p := range made[1:] {
		if &p.Spec.Containers[0] != &made[0].Spec.Containers[0] || &p.OwnerReferences[0] != &made[0].OwnerReferences[0] {
			t.Errorf("pod %d has containers or owners of its own", i+1)
		}
		if p.Spec.NodeName != fmt.Sprint("node-", i+1) || p.Name != fmt.Sprint("p", i+1) {
			t.Errorf("pod %d is on %s, and called %s", i+1, p.Spec.NodeName, p.Name)
		}
	}
	if len(pods.specs.parts) != 1 || len(pods.labels.parts) != 1 {
		t.Errorf("%d specs and %d sets of labels are remembered", len(pods.specs.parts), len(pods.labels.parts))
	}
	other := somePod("q", "", "image", "2", "web", "")
	value, err := codec.Append(nil, other)
	if err != nil {
		t.Fatal(err)
	}
	if pods.Share(other, value); &other.Spec.Containers[0] == &made[0].Spec.Containers[0] || len(other.OwnerReferences) != 0 {
		t.Error("what differs is shared")
	}
	// What is stored otherwise, or broken, is left alone.
	for _, value := range [][]byte{nil, []byte(`{"kind":"Pod"}`), value[:len(value)-9], []byte("k8s\x00\xff\xff")} {
		odd := somePod("q", "z", "image", "3", "", "")
		if pods.Share(odd, value); odd.Spec.NodeName != "z" || odd.Spec.Containers[0].Resources.Requests.Cpu().Value() != 3 {
			t.Errorf("%q: %v", value, odd)
		}
	}
}

func TestTablesAreBounded(t *testing.T) {
	var tab table[int]
	var w words
	for i := range 3 * maxParts {
		key := fmt.Sprint("key ", i)
		if got := tab.of([]byte(key), i); got != i {
			t.Fatalf("%s is %d", key, got)
		}
	}
	for i := range 3 * maxWords {
		word := fmt.Sprint("word ", i)
		w.share(&word)
	}
	if len(tab.parts) > maxParts || len(w.all) > maxWords {
		t.Errorf("%d parts, %d words", len(tab.parts), len(w.all))
	}
	a, b := "node-"+fmt.Sprint(1), "node-"+fmt.Sprint(1)
	w.share(&a)
	if w.share(&b); a != b {
		t.Errorf("%q, %q", a, b)
	}
}

func TestEvents(t *testing.T) {
	var events Events
	ev := &corev1.Event{Reason: "Scheduled", Type: "Normal", Message: "to a node", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "n", Name: "p"}}
	want := ev.DeepCopy()
	if events.Share(ev); !equality.Semantic.DeepEqual(ev, want) {
		t.Errorf("%v", ev)
	}
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("k8s\x00\x0a\x03\x0a\x01v\x12\x05\x0a\x03\x5a\x01x"))
	f.Add([]byte("k8s\x00\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, value []byte) {
		pod := somePod("p", "n", "i", "1", "l", "o")
		var pods Pods
		pods.Share(pod, value)
		if pod.Spec.NodeName != "n" || pod.Name != "p" {
			t.Error("a pod that shared with nobody is another")
		}
	})
}

func BenchmarkPods(b *testing.B) {
	codec := podCodec(b)
	var pods Pods
	pod := somePod("p", "n", "i", "1", "l", "o")
	value, err := codec.Append(nil, pod)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		pods.Share(pod, value)
	}
}

// What a pod has from an older state of it is read by others meanwhile.
func TestPodsLeaveOlderStatesAlone(t *testing.T) {
	codec := podCodec(t)
	var pods Pods
	old := somePod("p", "", "image", "1", "web", "owner")
	next := *old
	next.Spec.NodeName = "n"
	value, err := codec.Append(nil, &next)
	if err != nil {
		t.Fatal(err)
	}
	ready := string([]byte("Ready")) // another text
	pods.words.share(&ready)
	done := make(chan int)
	go func() {
		n := 0
		for range 1000 {
			n += len(old.Status.Conditions[0].Type) + len(old.Status.ContainerStatuses[0].Image) + len(old.Labels["l"])
		}
		done <- n
	}()
	pods.Share(&next, value)
	if n := <-done; n != 1000*(5+5+3) {
		t.Errorf("read %d letters", n)
	}
	if len(next.Status.Conditions) != 1 || next.Status.Conditions[0].Type != corev1.PodReady {
		t.Errorf("%v", next.Status.Conditions)
	}
}
