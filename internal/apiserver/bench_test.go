package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
)

// sink is a client that takes everything and keeps nothing.
type sink struct {
	header http.Header
	code   int
	n      int
}

func (s *sink) Header() http.Header  { return s.header }
func (s *sink) WriteHeader(code int) { s.code = code }
func (s *sink) Flush()               {}
func (s *sink) Write(p []byte) (int, error) {
	s.n += len(p)
	return len(p), nil
}

func do(b *testing.B, h http.Handler, wantCode int, method, path, ctype, accept, body string) int {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, path, r)
	if err != nil {
		b.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", ctype)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "bench/1")
	w := &sink{header: http.Header{}}
	h.ServeHTTP(w, req)
	if w.code != wantCode {
		b.Fatalf("%s %s: %d", method, path, w.code)
	}
	return w.n
}

const benchMaps = "/api/v1/namespaces/bench/configmaps"

func configMapJSON(name, value string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"bench","labels":{"app":"bench"}},"data":{"key":%q,"small":%q}}`, name, strings.Repeat("x", 1024), value)
}

// cpu reports the processor time of an operation, which hardly depends on what else the machine does.
func cpu(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	began := used()
	b.ReportAllocs()
	return func() { b.ReportMetric(float64((used()-began).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op") }
}

const jsonType = "application/json"

func BenchmarkConfigMap(b *testing.B) {
	h := newServer(b).Handler()
	do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON("a", "0"))
	b.Run("get", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			do(b, h, 200, "GET", benchMaps+"/a", "", jsonType, "")
		}
	})
	n := 0
	b.Run("create", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON(fmt.Sprint("c", n), "0"))
		}
	})
	b.Run("update", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 200, "PUT", benchMaps+"/a", jsonType, jsonType, configMapJSON("a", fmt.Sprint(n)))
		}
	})
	b.Run("merge", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 200, "PATCH", benchMaps+"/a", "application/merge-patch+json", jsonType, fmt.Sprintf(`{"data":{"small":"%d"}}`, n))
		}
	})
	b.Run("apply", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 200, "PATCH", benchMaps+"/a?fieldManager=bench&force=true", "application/apply-patch+yaml", jsonType, configMapJSON("a", fmt.Sprint(n)))
		}
	})
	b.Run("createdelete", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			name := fmt.Sprint("d", n)
			do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON(name, "0"))
			do(b, h, 200, "DELETE", benchMaps+"/"+name, "", jsonType, "")
		}
	})
}

func podJSON(name string) string {
	var env []string
	for i := range 10 {
		env = append(env, fmt.Sprintf(`{"name":"VARIABLE_%d","value":"some value of a variable %d"}`, i, i))
	}
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"app":"bench","tier":"backend","pod-template-hash":"6d4cf56db6"},"annotations":{"example.com/checksum":"%s"}},
"spec":{"containers":[{"name":"main","image":"registry.example.com/team/service:v1.2.3","args":["--port=8080","--verbose"],"env":[%s],"ports":[{"containerPort":8080,"name":"http"}],
"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"cpu":"500m","memory":"256Mi"}},"readinessProbe":{"httpGet":{"path":"/ready","port":8080}}},
{"name":"sidecar","image":"registry.example.com/team/proxy:v0.9.0","resources":{"requests":{"cpu":"10m","memory":"32Mi"}}}],"volumes":[{"name":"tmp","emptyDir":{}}]}}`, name, strings.Repeat("0123456789abcdef", 4), strings.Join(env, ","))
}

const benchPods = "/api/v1/namespaces/bench/pods"

func BenchmarkPod(b *testing.B) {
	h := newServer(b).Handler()
	n := 0
	b.Run("create", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 201, "POST", benchPods, jsonType, jsonType, podJSON(fmt.Sprint("p", n)))
		}
	})
	b.Run("status", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 200, "PATCH", benchPods+"/p1/status", "application/strategic-merge-patch+json", jsonType, fmt.Sprintf(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","message":"m%d"}]}}`, n))
		}
	})
}

// BenchmarkPodStatus: a condition of a pod is changed, by a patch and by somebody in this process who makes the change himself and wants no answer.
func BenchmarkPodStatus(b *testing.B) {
	h := newServer(b).Handler()
	const pods = "/api/v1/namespaces/bench/pods"
	do(b, h, 201, "POST", pods, jsonType, jsonType, podJSON("p"))
	const strategic = "application/strategic-merge-patch+json"
	n := 0
	b.Run("patch", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			do(b, h, 200, "PATCH", pods+"/p/status", strategic, "application/vnd.kubernetes.protobuf",
				fmt.Sprintf(`{"status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":"R","message":"%d","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, n))
		}
	})
	ctx := request.WithUser(context.Background(), &user.DefaultInfo{Name: "room", Groups: []string{user.SystemPrivilegedGroup}})
	b.Run("edit", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			n++
			message := strconv.Itoa(n)
			req, err := http.NewRequestWithContext(ctx, "PATCH", pods+"/p/status", http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			req.Body = request.GiveEdit(func(obj runtime.Object) (runtime.Object, error) {
				p := *obj.(*corev1.Pod)
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "R", Message: message, LastTransitionTime: metav1.Unix(1, 0)}}
				return &p, nil
			}, nil)
			req.ContentLength = -1
			req.Header.Set("Content-Type", strategic)
			req.Header.Set("Prefer", request.NoAnswer)
			w := &sink{header: http.Header{}}
			if h.ServeHTTP(w, req); w.code != http.StatusOK {
				b.Fatal(w.code)
			}
		}
	})
}

func BenchmarkList(b *testing.B) {
	h := newServer(b).Handler()
	for i := range 5000 {
		do(b, h, 201, "POST", benchPods, jsonType, jsonType, podJSON(fmt.Sprint("p", i)))
	}
	for _, accept := range []string{jsonType, "application/vnd.kubernetes.protobuf"} {
		b.Run(accept, func(b *testing.B) {
			defer cpu(b)()
			for b.Loop() {
				b.SetBytes(int64(do(b, h, 200, "GET", "/api/v1/pods", "", accept, "")))
			}
		})
	}
	b.Run("table", func(b *testing.B) {
		defer cpu(b)()
		for b.Loop() {
			b.SetBytes(int64(do(b, h, 200, "GET", "/api/v1/pods", "", "application/json;as=Table;v=v1;g=meta.k8s.io", "")))
		}
	})
}

// eventCounter is a watching client that counts lines.
type eventCounter struct {
	sink
	events chan<- int
}

func (c *eventCounter) Write(p []byte) (int, error) {
	c.events <- bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// BenchmarkWatch is one change seen by 200 watchers, without a network.
func BenchmarkWatch(b *testing.B) {
	const watchers = 200
	h := newServer(b).Handler()
	do(b, h, 201, "POST", benchMaps, jsonType, jsonType, configMapJSON("a", "0"))
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan int, watchers)
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, benchMaps+"?watch=1", nil)
			if err != nil {
				b.Error(err)
				return
			}
			h.ServeHTTP(&eventCounter{sink: sink{header: http.Header{}}, events: events}, req)
		})
	}
	wait := func(n int) {
		for n > 0 {
			n -= <-events
		}
	}
	wait(watchers) // the initial event of each
	defer wg.Wait()
	defer cancel()
	defer cpu(b)()
	n := 0
	for b.Loop() {
		n++
		do(b, h, 200, "PUT", benchMaps+"/a", jsonType, jsonType, configMapJSON("a", fmt.Sprint(n)))
		wait(watchers)
	}
}

// BenchmarkServiceCreate creates services with a cluster IP besides many that are there.
func BenchmarkServiceCreate(b *testing.B) {
	for _, there := range []int{10, 5000} {
		b.Run(fmt.Sprint(there), func(b *testing.B) {
			h := newServer(b).Handler()
			n := 0
			create := func() {
				n++
				do(b, h, 201, "POST", "/api/v1/namespaces/n/services", jsonType, jsonType, fmt.Sprintf(`{"metadata":{"name":"s%d"},"spec":{"ports":[{"port":80}]}}`, n))
			}
			for range there {
				create()
			}
			b.ReportAllocs()
			defer cpu(b)()
			for b.Loop() {
				create()
			}
		})
	}
}
