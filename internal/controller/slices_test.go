package controller

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

func TestSlicesOf(t *testing.T) {
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{}, &discoveryv1.EndpointSlice{}, 0, cache.Indexers{})
	mine, err := SlicesOf(informer, "me")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := SlicesOf(informer, "them") // a second controller on the same informer
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ namespace, name, service, manager string }{
		{"a", "web-1", "web", "me"}, {"a", "web-2", "web", "them"}, {"a", "web-3", "web", ""}, {"b", "web-1", "web", "me"}, {"a", "db-1", "db", "me"}, {"a", "free", "", "me"},
	} {
		if err := informer.GetIndexer().Add(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.name, Labels: map[string]string{
			discoveryv1.LabelServiceName: s.service, discoveryv1.LabelManagedBy: s.manager,
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		find            func(namespace, service string) ([]*discoveryv1.EndpointSlice, error)
		namespace, want string
	}{{mine, "a", "web-1"}, {theirs, "a", "web-2"}, {mine, "b", "web-1"}} {
		got, err := c.find(c.namespace, "web")
		if err != nil || len(got) != 1 || got[0].Namespace != c.namespace || got[0].Name != c.want {
			t.Errorf("%s: %v, %v", c.namespace, got, err)
		}
	}
	if got, err := theirs("b", "web"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
