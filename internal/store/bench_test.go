package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/store"
)

func onEngines(b *testing.B, bench func(b *testing.B, f fixture)) {
	for name, open := range engines(b) {
		b.Run(name, func(b *testing.B) {
			f := start(b, open(), store.Options{})
			defer f.store.Close()
			b.ReportAllocs()
			before := cpu()
			b.ResetTimer()
			bench(b, f)
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is what the process has used, in nanoseconds.
func cpu() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return r.Utime.Nano() + r.Stime.Nano()
}

var kilobyte = strings.Repeat("x", 1000)

func BenchmarkCreate(b *testing.B) {
	onEngines(b, func(b *testing.B, f fixture) {
		var n atomic.Int64
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				set(b, f.maps, configMap("a", fmt.Sprint("n", n.Add(1)), kilobyte))
			}
		})
	})
}

func BenchmarkUpdate(b *testing.B) {
	onEngines(b, func(b *testing.B, f fixture) {
		const objects = 1000
		for i := range objects {
			set(b, f.maps, configMap("a", fmt.Sprint("n", i), kilobyte))
		}
		var n atomic.Int64
		b.ResetTimer()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				i := n.Add(1)
				_, err := f.maps.Mutate(context.Background(), fmt.Sprint("a/n", i%objects), func(cur *store.Item) (store.Mutation, error) {
					obj := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
					obj.Data["k"] = fmt.Sprint(i, kilobyte)
					return store.Mutation{Object: obj}, nil
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkGet(b *testing.B) {
	f := startMemory(b, store.Options{})
	for i := range 10000 {
		set(b, f.maps, configMap("a", fmt.Sprint("n", i), "x"))
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := f.maps.Get(context.Background(), "a/n77", store.GetOptions{}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkList10k(b *testing.B) {
	f := startMemory(b, store.Options{})
	for i := range 10000 {
		set(b, f.pods, pod("a", fmt.Sprint("p", i), fmt.Sprint("n", i%100)))
	}
	for name, o := range map[string]store.ListOptions{
		"all":    {},
		"page":   {Limit: 500},
		"index":  {Index: "spec.nodeName", IndexValue: "n7"},
		"filter": {Filter: func(o store.Object) bool { return o.GetName() == "p7" }},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.pods.List(context.Background(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFanOut counts one event delivered to one of 200 watchers as an operation, without the write.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 200
	onEngines(b, func(b *testing.B, f fixture) {
		var seen atomic.Int64
		done := make(chan struct{})
		writes := int64(b.N/watchers + 1)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for range watchers {
			w, err := f.maps.Watch(ctx, store.WatchOptions{FromNow: true})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Stop()
			go func() {
				for {
					events, err := w.Next(ctx)
					if err != nil {
						return
					}
					if seen.Add(int64(len(events))) == writes*watchers {
						close(done)
					}
				}
			}()
		}
		for i := range writes {
			set(b, f.maps, configMap("a", "x", fmt.Sprint(i)))
		}
		<-done
	})
}
