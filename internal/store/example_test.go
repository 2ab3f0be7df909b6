package store_test

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

// A store over an engine, one resource, a write and what a watcher sees of it.
func Example() {
	ctx := context.Background()
	engine := memory.New()
	defer engine.Close()
	s, err := store.New(ctx, engine, store.Options{})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	configMaps, err := s.Register(configMapResource())
	if err != nil {
		panic(err)
	}
	if err := s.Start(ctx); err != nil {
		panic(err)
	}

	watcher, err := configMaps.Watch(ctx, store.WatchOptions{Namespace: "default", SendInitial: true, Bookmarks: true})
	if err != nil {
		panic(err)
	}
	defer watcher.Stop()

	// A write is a function from what is to what shall be; it may be called again when others write at the same time.
	for range 2 {
		_, err = configMaps.Mutate(ctx, "default/greeting", func(current *store.Item) (store.Mutation, error) {
			if current == nil {
				return store.Mutation{Object: configMap("default", "greeting", "hello")}, nil
			}
			changed := current.Object.DeepCopyObject().(*corev1.ConfigMap)
			changed.Data["k"] += ", world"
			return store.Mutation{Object: changed}, nil
		})
		if err != nil {
			panic(err)
		}
	}
	_, err = configMaps.Get(ctx, "default/other", store.GetOptions{})
	fmt.Println(apierrors.IsNotFound(err), err)

	for seen := 0; seen < 3; {
		events, err := watcher.Next(ctx)
		if err != nil {
			panic(err)
		}
		for _, e := range events {
			seen++
			if e.Type == store.Bookmark {
				fmt.Println("that was all there was")
				continue
			}
			fmt.Println(show(e), e.Item.Object.(*corev1.ConfigMap).Data["k"], e.Item.Object.GetResourceVersion())
		}
	}
	// Output:
	// true configmaps "other" not found
	// that was all there was
	// +default/greeting hello 2
	// ~default/greeting hello, world 3
}
