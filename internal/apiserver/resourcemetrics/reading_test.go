package resourcemetrics

import (
	"strings"
	"testing"
	"time"
)

const document = `# HELP node_cpu_usage_seconds_total Cumulative cpu time
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 4.5 1700000000500
node_memory_working_set_bytes 1.5e+09
container_cpu_usage_seconds_total{container="a",namespace="ns",pod="p"} 2 1700000000000
container_memory_working_set_bytes{container="a",namespace="ns",pod="p",} 4096 1700000000000
container_start_time_seconds { container = "a" , namespace="ns", pod="p" } 1.69999999e+09
container_cpu_usage_seconds_total{container="b\"\\\n",namespace="ns",pod="p"} 0
container_cpu_usage_seconds_total{container="",namespace="ns",pod="p"} 7
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} NaN
something_else{broken
`

func TestRead(t *testing.T) {
	at := time.Unix(1800000000, 0)
	r, err := read(document, at)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.node; !n.whole() || n.cpu != 4500*time.Millisecond || n.memory != 1.5e9 || !n.at.Equal(time.UnixMilli(1700000000500)) {
		t.Errorf("the node: %+v", n)
	}
	pod := r.pods[podKey{"ns", "p"}]
	if len(pod) != 2 {
		t.Fatalf("containers: %v", pod)
	}
	if a := pod["a"]; !a.whole() || a.cpu != 2*time.Second || a.memory != 4096 || a.started.Unix() != 1699999990 || a.at.Unix() != 1700000000 {
		t.Errorf("a: %+v", a)
	}
	if b := pod["b\"\\\n"]; b == nil || b.hasMemory || !b.hasCPU || !b.at.Equal(at) || !b.started.IsZero() {
		t.Errorf("b: %+v", b)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"not a series":    "<html>",
		"no value":        "node_cpu_usage_seconds_total",
		"a word":          "node_cpu_usage_seconds_total many",
		"not a number":    "node_cpu_usage_seconds_total NaN",
		"infinite":        "node_cpu_usage_seconds_total +Inf",
		"negative":        "node_memory_working_set_bytes -1",
		"too much":        "node_memory_working_set_bytes 1e300",
		"three values":    "node_memory_working_set_bytes 1 2 3",
		"no time":         "node_memory_working_set_bytes 1 now",
		"open labels":     `container_cpu_usage_seconds_total{pod="p"`,
		"open value":      `container_cpu_usage_seconds_total{pod="p} 1`,
		"open escape":     `container_cpu_usage_seconds_total{pod="p\`,
		"unquoted":        `container_cpu_usage_seconds_total{pod=p} 1`,
		"a label no name": `container_cpu_usage_seconds_total{="p"} 1`,
	} {
		if r, err := read(text+"\n", time.Time{}); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		} else if !strings.Contains(err.Error(), "line 1 ") {
			t.Errorf("%s: %v does not say where", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(document)
	f.Add(`container_cpu_usage_seconds_total{pod="p\`)
	f.Add("node_memory_working_set_bytes 9007199254740991 -5\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := read(text, time.Unix(0, 0))
		if err != nil {
			return
		}
		for key, pod := range r.pods {
			for name, c := range pod {
				if key.namespace == "" || key.name == "" || name == "" || c.cpu < 0 && c.hasCPU && c.cpu > -1 || c.memory < 0 {
					t.Errorf("%v %q: %+v", key, name, c)
				}
			}
		}
		if c := r.node; c.memory < 0 {
			t.Errorf("node: %+v", c)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	var doc strings.Builder
	for i := range 110 {
		pod := "some-deployment-5d4f8c7b9-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		for _, name := range []string{containerCPU, containerMemory, containerStart} {
			doc.WriteString(name + `{container="app",namespace="production",pod="` + pod + `"} 12345.678 1700000000000` + "\n")
		}
	}
	text := doc.String()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := read(text, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
