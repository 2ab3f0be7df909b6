package cluster

import (
	"fmt"
	"testing"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMoveEvents(t *testing.T) {
	etcd, to := memory.New(), memory.New()
	defer etcd.Close()
	defer to.Close()
	n := 2*movedAtOnce + 1
	for i := range n {
		if _, err := etcd.Txn(t.Context(), nil, []kv.Op{{Key: fmt.Sprintf("/registry/events/ns/%04d", i), Value: []byte(fmt.Sprint(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := etcd.Txn(t.Context(), nil, []kv.Op{{Key: "/registry/events.example.com/ns/a"}, {Key: "/registry/eventsources/ns/a"}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing
		if err := moveEvents(t.Context(), etcd, to); err != nil {
			t.Fatal(err)
		}
	}
	left, err := etcd.Range(t.Context(), kv.RangeRequest{Key: "/", End: "0"})
	if err != nil || left.Count != 2 {
		t.Errorf("%d keys are left, want 2 (%v)", left.Count, err)
	}
	moved, err := to.Range(t.Context(), kv.RangeRequest{Key: "/", End: "0"})
	if err != nil || moved.Count != int64(n) || string(moved.KVs[n-1].Value) != fmt.Sprint(n-1) || moved.KVs[0].Lease == 0 {
		t.Errorf("%d events are there, want %d (%v)", moved.Count, n, err)
	}
}
