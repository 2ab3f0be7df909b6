package observed_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
	"github.com/celox/celox/internal/store/kv/observed"
)

func TestLabels(t *testing.T) {
	inner := memory.New()
	t.Cleanup(func() { _ = inner.Close() })
	r := prometheus.NewRegistry()
	e := observed.New(inner, r, "/registry/", map[string]observed.Name{
		"pods": {Resource: "pods"}, "services/specs": {Resource: "services"}, "deployments": {Group: "apps", Resource: "deployments"},
	})
	ctx := context.Background()
	txn := func(key string, revision int64, del bool) {
		t.Helper()
		if _, err := e.Txn(ctx, []kv.Guard{{Key: key, ModRevision: revision}}, []kv.Op{{Key: key, Value: []byte("x"), Delete: del}}); err != nil {
			t.Fatal(err)
		}
	}
	txn("/registry/pods/n/a", 0, false)
	txn("/registry/pods/n/a", 1, false)
	txn("/registry/services/specs/n/a", 1, true)
	for _, q := range []kv.RangeRequest{
		{Key: "/registry/deployments/", End: "/registry/deployments0"}, {Key: "/registry/example.com/things/n/a"}, {Key: "/registry/health"}, {Key: "other"},
	} {
		if _, err := e.Range(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]uint64{}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sized := false
	for _, f := range families {
		sized = sized || f.GetName() == "apiserver_storage_size_bytes" && len(f.Metric) == 1
		if f.GetName() != "etcd_request_duration_seconds" {
			continue
		}
		for _, m := range f.Metric {
			label := map[string]string{}
			for _, p := range m.Label {
				label[p.GetName()] = p.GetValue()
			}
			got[label["operation"]+" "+label["resource"]+"."+label["group"]] = m.Histogram.GetSampleCount()
		}
	}
	want := map[string]uint64{"create pods.": 1, "update pods.": 1, "delete services.": 1, "list deployments.apps": 1, "get things.example.com": 1, "get .": 2}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %d, want %d", k, got[k], n)
		}
	}
	if !sized {
		t.Error("no size of the database")
	}
}
