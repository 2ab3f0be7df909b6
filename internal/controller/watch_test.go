package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

func TestIn(t *testing.T) {
	cached := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, key := range [][2]string{{"a", "one"}, {"a", "two"}, {"b", "one"}} {
		if err := cached.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key[0], Name: key[1]}}); err != nil {
			t.Fatal(err)
		}
	}
	for namespace, want := range map[string]int{"a": 2, "b": 1, "c": 0, "": 0} {
		got := In[*corev1.Pod](cached, namespace)
		if len(got) != want {
			t.Errorf("%d in %q, want %d", len(got), namespace, want)
		}
		for _, p := range got {
			if p.Namespace != namespace {
				t.Errorf("%s/%s in %q", p.Namespace, p.Name, namespace)
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() { In[*corev1.Pod](cached, "c") }); n > 1 { // client-go's index makes an empty list
		t.Errorf("%.0f allocations for nothing", n)
	}
}
