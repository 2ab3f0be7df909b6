package store_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

// coreCodec stores kinds of core/v1 as upstream does.
type coreCodec struct {
	serializer *protobuf.Serializer
	kind       string
	decoded    *atomic.Int64 // counts calls of Decode
}

func newCodec(kind string) coreCodec {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return coreCodec{serializer: protobuf.NewSerializer(scheme, scheme), kind: kind, decoded: new(atomic.Int64)}
}

func (c coreCodec) Append(to []byte, obj store.Object) ([]byte, error) {
	b := bytes.NewBuffer(to)
	err := c.serializer.Encode(obj, b)
	return b.Bytes(), err
}

func (c coreCodec) Decode(data []byte) (store.Object, error) {
	c.decoded.Add(1)
	obj, gvk, err := c.serializer.Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(*gvk)
	return obj.(store.Object), nil
}

var (
	configMaps = schema.GroupResource{Resource: "configmaps"}
	pods       = schema.GroupResource{Resource: "pods"}
)

func configMapResource() store.Resource {
	return store.Resource{GroupResource: configMaps, Prefix: "configmaps", Namespaced: true, Codec: newCodec("ConfigMap")}
}

func podResource() store.Resource {
	return store.Resource{
		GroupResource: pods, Prefix: "pods", Namespaced: true, Codec: newCodec("Pod"),
		Indexes: map[string]func(store.Object) []string{
			"spec.nodeName": func(o store.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} },
		},
	}
}

func configMap(namespace, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name)},
		Data:       map[string]string{"k": value},
	}
}

func pod(namespace, name, node string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

type fixture struct {
	engine kv.Engine
	store  *store.Store
	maps   *store.Collection
	pods   *store.Collection
}

func start(t testing.TB, engine kv.Engine, o store.Options) fixture {
	t.Helper()
	s, err := store.New(t.Context(), engine, o)
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{engine: engine, store: s}
	if f.maps, err = s.Register(configMapResource()); err != nil {
		t.Fatal(err)
	}
	if f.pods, err = s.Register(podResource()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return f
}

func startMemory(t testing.TB, o store.Options) fixture {
	t.Helper()
	engine := memory.New()
	t.Cleanup(func() { engine.Close() })
	return start(t, engine, o)
}

func set(t testing.TB, c *store.Collection, obj store.Object) *store.Item {
	t.Helper()
	key := obj.GetName()
	if obj.GetNamespace() != "" {
		key = obj.GetNamespace() + "/" + key
	}
	item, err := c.Mutate(context.Background(), key, func(*store.Item) (store.Mutation, error) {
		return store.Mutation{Object: obj}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func remove(t testing.TB, c *store.Collection, key string) *store.Item {
	t.Helper()
	item, err := c.Mutate(context.Background(), key, func(*store.Item) (store.Mutation, error) {
		return store.Mutation{Delete: true}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return item
}

// read takes events until there are n.
func read(t testing.TB, w *store.Watcher, n int) []string {
	t.Helper()
	var out []string
	for len(out) < n {
		events, err := w.Next(t.Context())
		if err != nil {
			t.Fatalf("after %v: %v", out, err)
		}
		for _, e := range events {
			out = append(out, show(e))
		}
	}
	return out
}

func show(e store.Event) string {
	switch e.Type {
	case store.Bookmark:
		if e.Initial {
			return "initial"
		}
		return "bookmark"
	case store.Deleted:
		return "-" + e.Item.Key
	case store.Modified:
		return "~" + e.Item.Key
	}
	return "+" + e.Item.Key
}

func keys(l store.List) string {
	var out []string
	for _, it := range l.Items {
		out = append(out, it.Key)
	}
	return fmt.Sprint(out)
}
