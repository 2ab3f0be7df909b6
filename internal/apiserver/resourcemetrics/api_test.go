package resourcemetrics

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

func podNames(t *testing.T, a Version, ctx context.Context, namespace, ls, fs string) string {
	t.Helper()
	l, err := labels.Parse(ls)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fields.ParseSelector(fs)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := a.List(ctx, "pods", namespace, l, f)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range obj.(*metricsv1.PodMetricsList).Items {
		names = append(names, m.Namespace+"/"+m.Name)
	}
	return strings.Join(names, " ")
}

func TestAPI(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		a := New(c, m, nobody).In(metricsv1.SchemeGroupVersion)
		m.place("y", "two", "b")
		m.place("x", "two", "a")
		m.place("x", "one", "b")
		m.place("x", "lost", "nowhere")
		m.place("x", "young", "a")
		m.mu.Lock()
		m.started["young"] = time.Now().Add(-2 * time.Second)
		m.mu.Unlock()

		obj, err := a.Get(ctx, "pods", "x", "one")
		if err != nil {
			t.Fatal(err)
		}
		p := obj.(*metricsv1.PodMetrics)
		cpu, memory := p.Containers[0].Usage.Cpu(), p.Containers[0].Usage.Memory()
		if p.Kind != "PodMetrics" || p.APIVersion != "metrics.k8s.io/v1" || p.Labels["app"] != "one" || p.Window.Duration != firstGap ||
			p.Containers[0].Name != "c" || cpu.MilliValue() != 250 || memory.String() != "2Mi" || p.CreationTimestamp.IsZero() {
			t.Errorf("got %+v", p)
		}
		for _, tt := range []struct{ namespace, labels, fields, want string }{
			{"", "", "", "x/one x/two y/two"},
			{"x", "", "", "x/one x/two"},
			{"", "app=two", "", "x/two y/two"},
			{"", "app!=two", "metadata.namespace=x", "x/one"},
			{"", "", "metadata.name=two,metadata.namespace!=x", "y/two"},
			{"z", "", "", ""},
		} {
			if got := podNames(t, a, ctx, tt.namespace, tt.labels, tt.fields); got != tt.want {
				t.Errorf("pods in %q with %q and %q: %s, want %s", tt.namespace, tt.labels, tt.fields, got, tt.want)
			}
		}
		for _, tt := range []struct{ resource, name, want string }{
			{"pods", "none", `pods "none" not found`},
			{"pods", "young", `podmetrics.metrics.k8s.io "x/young" not found`},
			{"nodes", "none", `nodes "none" not found`},
		} {
			if _, err := a.Get(ctx, tt.resource, "x", tt.name); !apierrors.IsNotFound(err) || err.Error() != tt.want {
				t.Errorf("%s %s: %v", tt.resource, tt.name, err)
			}
		}
		m.mu.Lock()
		m.broken["b"] = true
		m.mu.Unlock()
		time.Sleep(resolution + time.Second)
		if got := podNames(t, a, ctx, "", "", ""); got != "x/two x/young" {
			t.Errorf("the pods of a node that does not answer are there: %s", got)
		}
		if _, err := a.Get(ctx, "nodes", "", "b"); err == nil || err.Error() != `nodemetrics.metrics.k8s.io "b" not found` {
			t.Errorf("a node that does not answer: %v", err)
		}
		obj, err = a.List(ctx, "nodes", "", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if l := obj.(*metricsv1.NodeMetricsList); len(l.Items) != 1 || l.Items[0].Name != "a" || l.Items[0].Window.Duration != resolution {
			t.Errorf("nodes: %+v", obj)
		}
	})
}

func TestTable(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		a := New(c, m, nobody).In(metricsv1.SchemeGroupVersion)
		empty, err := a.List(ctx, "pods", "", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tb := a.Table(empty); len(tb.Rows) != 0 || tb.Rows == nil || tb.ColumnDefinitions == nil {
			t.Errorf("an empty table: %+v", tb)
		}
		m.place("x", "one", "a")
		time.Sleep(time.Hour)
		for _, res := range []string{"pods", "nodes"} {
			obj, err := a.List(ctx, res, "", nil, fields.OneTermNotEqualSelector("metadata.name", "b"))
			if err != nil {
				t.Fatal(err)
			}
			tb := a.Table(obj)
			var names []string
			for _, d := range tb.ColumnDefinitions {
				names = append(names, d.Name)
			}
			if !slices.Equal(names, []string{"Name", "cpu", "memory", "Window"}) || len(tb.Rows) != 1 || tb.Rows[0].Cells[3] != "1s" {
				t.Errorf("%s: %v %v", res, names, tb.Rows)
			}
			if k := tb.Rows[0].Object.Object.GetObjectKind().GroupVersionKind().Kind; k != "PodMetrics" && k != "NodeMetrics" {
				t.Errorf("%s: a row of %q", res, k)
			}
		}
	})
}

// nobody has our group.
func nobody() bool { return false }

// The objects of the older version are those of the newer one, also for who reads protobuf.
func TestVersions(t *testing.T) {
	collecting(t, func(ctx context.Context, c *Collector, m *machines) {
		m.place("x", "one", "a")
		a := New(c, m, nobody).In(v1beta1.SchemeGroupVersion)
		obj, err := a.List(ctx, "pods", "", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		list := obj.(*metricsv1.PodMetricsList)
		if list.APIVersion != "metrics.k8s.io/v1beta1" || len(list.Items) != 1 {
			t.Fatalf("%+v", list)
		}
		data, err := list.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var older v1beta1.PodMetricsList
		if err := older.Unmarshal(data); err != nil {
			t.Fatal(err)
		}
		if p := older.Items[0]; p.Name != "one" || p.Containers[0].Usage.Cpu().Cmp(*list.Items[0].Containers[0].Usage.Cpu()) != 0 || p.Window != list.Items[0].Window {
			t.Errorf("in protobuf: %+v", p)
		}
		row := a.Table(obj).Rows[0].Object.Object.(*metricsv1.PodMetrics)
		if row.APIVersion != "metrics.k8s.io/v1beta1" {
			t.Errorf("a row of %s", row.APIVersion)
		}
	})
	var served []string
	for _, v := range New(nil, nil, nobody).Group(Group).Versions {
		served = append(served, v.Version)
	}
	if !slices.Equal(served, []string{"v1", "v1beta1"}) {
		t.Errorf("served: %s", served)
	}
}

func TestDocument(t *testing.T) {
	replaced := false
	a := New(nil, nil, func() bool { return replaced })
	if got := len(a.Documents()); got != len(GroupVersions()) {
		t.Fatalf("%d documents", got)
	}
	if data, err := a.Document("apis/metrics.k8s.io/v7"); data != nil || err != nil {
		t.Errorf("a version that nobody knows: %s %v", data, err)
	}
	for _, gv := range GroupVersions() {
		data, err := a.Document(documentName(gv))
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		have := doc["components"].(map[string]any)["schemas"].(map[string]any)
		for _, name := range refs(doc) {
			if have[name] == nil {
				t.Errorf("%s: %s is referred to but not there", gv, name)
			}
		}
		var paths []string
		for p := range doc["paths"].(map[string]any) {
			paths = append(paths, strings.TrimPrefix(p, "/apis/"+gv.String()+"/"))
		}
		slices.Sort(paths)
		if got := strings.Join(paths, " "); got != "namespaces/{namespace}/pods namespaces/{namespace}/pods/{name} nodes nodes/{name} pods" {
			t.Errorf("%s: paths: %s", gv, got)
		}
		for _, kind := range []string{"NodeMetrics", "NodeMetricsList", "PodMetrics", "PodMetricsList", "ContainerMetrics"} {
			if have["io.k8s.metrics.pkg.apis.metrics."+gv.Version+"."+kind] == nil {
				t.Errorf("%s: no schema of %s", gv, kind)
			}
		}
	}
	before := a.Revision()
	replaced = true
	if a.Revision() == before || len(a.Documents()) != 0 || len(a.Groups()) != 0 || a.GroupRevision(Group) != 0 || len(a.Group(Group).Versions) != 0 {
		t.Error("it is still described when another server has the group")
	}
}
