package apiserver

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// runCustoms follows the definitions of custom resources for the time of a test.
func runCustoms(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// awaitCustom waits until a custom resource is served, or no longer is.
func awaitCustom(t testing.TB, s *Server, resource, group string, want bool) {
	t.Helper()
	for range 60000 {
		served, ok := s.Customs().Find(schema.GroupResource{Group: group, Resource: resource})
		if ok == want && (!ok || len(served.Newest().Status.Conditions) > 0) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("waited too long for %s.%s", resource, group)
}

const benchSchema = `{"type":"object","properties":{"spec":{"type":"object","properties":{"key":{"type":"string","maxLength":2000},"small":{"type":"string","maxLength":100},` +
	`"count":{"type":"integer"},"list":{"type":"array","maxItems":10,"items":{"type":"object","properties":{"name":{"type":"string"}}}}}%s}}}`

func definitionJSON(plural, kind, group, rules string) string {
	return fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"%[1]s.%[3]s"},"spec":{"group":%[3]q,"scope":"Namespaced",`+
		`"names":{"plural":%[1]q,"kind":%[2]q},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":%[4]s}}]}}`,
		plural, kind, group, fmt.Sprintf(benchSchema, rules))
}

const benchDefinitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

func customJSON(kind, name, small string) string {
	return fmt.Sprintf(`{"apiVersion":"bench.example.com/v1","kind":%q,"metadata":{"name":%q,"namespace":"bench","labels":{"app":"bench"}},"spec":{"key":%q,"small":%q}}`, kind, name, strings.Repeat("x", 1024), small)
}

func BenchmarkCustom(b *testing.B) {
	s := newServer(b)
	runCustoms(b, s)
	h := s.Handler()
	const rules = `,"x-kubernetes-validations":[{"rule":"self.small != 'no'"},{"rule":"!has(self.count) || self.count > 0"}]`
	do(b, h, 201, "POST", benchDefinitions, jsonType, jsonType, definitionJSON("things", "Thing", "bench.example.com", ""))
	do(b, h, 201, "POST", benchDefinitions, jsonType, jsonType, definitionJSON("ruleds", "Ruled", "bench.example.com", rules))
	awaitCustom(b, s, "things", "bench.example.com", true)
	awaitCustom(b, s, "ruleds", "bench.example.com", true)
	const things = "/apis/bench.example.com/v1/namespaces/bench/things"
	n := 0
	create := func(path string, body func(name string) string) func(*testing.B) {
		return func(b *testing.B) {
			n++
			do(b, h, 201, "POST", path, jsonType, jsonType, body(fmt.Sprint("first", n)))
			b.ResetTimer()
			defer cpu(b)()
			for i := range b.N {
				do(b, h, 201, "POST", path, jsonType, jsonType, body(fmt.Sprintf("n%d-%d", n, i)))
			}
		}
	}
	b.Run("create ConfigMap", create(benchMaps, func(name string) string { return configMapJSON(name, "0") }))
	b.Run("create", create(things, func(name string) string { return customJSON("Thing", name, "0") }))
	b.Run("create with rules", create("/apis/bench.example.com/v1/namespaces/bench/ruleds", func(name string) string { return customJSON("Ruled", name, "0") }))
	do(b, h, 201, "POST", things, jsonType, jsonType, customJSON("Thing", "a", "0"))
	do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON("a", "0"))
	for _, c := range []struct{ name, path, field string }{{"ConfigMap", benchMaps + "/a", "data"}, {"custom", things + "/a", "spec"}} {
		b.Run("get "+c.name, func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				do(b, h, 200, "GET", c.path, "", jsonType, "")
			}
		})
		b.Run("merge patch "+c.name, func(b *testing.B) {
			defer cpu(b)()
			for i := range b.N {
				do(b, h, 200, "PATCH", c.path, "application/merge-patch+json", jsonType, fmt.Sprintf(`{%q:{"small":"p%d"}}`, c.field, i))
			}
		})
	}
	for _, c := range []struct{ name, path, form string }{
		{"ConfigMap", benchMaps + "/b", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"},"data":{"small":"p%d"}}`},
		{"custom", things + "/b", `{"apiVersion":"bench.example.com/v1","kind":"Thing","metadata":{"name":"b"},"spec":{"small":"p%d"}}`},
	} {
		b.Run("apply "+c.name, func(b *testing.B) {
			do(b, h, 201, "PATCH", c.path+fmt.Sprint(b.N)+"?fieldManager=m", "application/apply-patch+yaml", jsonType, strings.Replace(fmt.Sprintf(c.form, 0), `"b"`, `"b`+fmt.Sprint(b.N)+`"`, 1))
			b.ResetTimer()
			defer cpu(b)()
			for i := range b.N {
				do(b, h, 200, "PATCH", c.path+fmt.Sprint(b.N)+"?fieldManager=m", "application/apply-patch+yaml", jsonType, strings.Replace(fmt.Sprintf(c.form, i+1), `"b"`, `"b`+fmt.Sprint(b.N)+`"`, 1))
			}
		})
	}
}

// BenchmarkDefine creates definitions when there are none yet and when there are a thousand.
func BenchmarkDefine(b *testing.B) {
	for _, before := range []int{0, 1000} {
		b.Run(fmt.Sprintf("after %d", before), func(b *testing.B) {
			s := newServer(b)
			runCustoms(b, s)
			h := s.Handler()
			define := func(i int, of string) {
				plural := fmt.Sprintf("%ss%d", of, i)
				do(b, h, 201, "POST", benchDefinitions, jsonType, jsonType, definitionJSON(plural, fmt.Sprintf("K%s%d", of, i), "bench.example.com", ""))
			}
			for i := range before {
				define(i, "old")
			}
			if before > 0 {
				awaitCustom(b, s, fmt.Sprintf("olds%d", before-1), "bench.example.com", true)
			}
			b.ResetTimer()
			defer cpu(b)()
			for i := range b.N {
				define(i, "new")
				awaitCustom(b, s, fmt.Sprintf("news%d", i), "bench.example.com", true)
			}
		})
	}
}

// BenchmarkUsedDefinitions reports the memory of definitions of which nobody has asked anything, and of those whose objects have been listed, created and applied.
func BenchmarkUsedDefinitions(b *testing.B) {
	const n = 200
	for b.Loop() {
		s := newServer(b)
		runCustoms(b, s)
		h := s.Handler()
		heap := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		group := func(i int) string { return fmt.Sprintf("g%d.example.com", i/10) }
		empty := heap()
		for i := range n {
			do(b, h, 201, "POST", benchDefinitions, jsonType, jsonType, definitionJSON(fmt.Sprintf("things%d", i), fmt.Sprintf("Thing%d", i), group(i), ""))
		}
		for i := range n {
			awaitCustom(b, s, fmt.Sprintf("things%d", i), group(i), true)
		}
		defined := heap()
		for i := range n {
			all := fmt.Sprintf("/apis/%s/v1/namespaces/bench/things%d", group(i), i)
			object := fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Thing%d","metadata":{"name":"a"},"spec":{"key":"v"}}`, group(i), i)
			do(b, h, 200, "GET", all, "", jsonType, "")
			do(b, h, 201, "POST", all, jsonType, jsonType, object)
			do(b, h, 200, "PATCH", all+"/a?fieldManager=m&force=true", "application/apply-patch+yaml", jsonType, object)
		}
		b.ReportMetric(float64(defined-empty)/n, "B/unused")
		b.ReportMetric(float64(heap()-empty)/n, "B/used")
	}
}
