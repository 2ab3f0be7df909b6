package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/kvtest"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Engine {
		e := memory.New()
		t.Cleanup(func() { e.Close() })
		return e
	})
}

func TestLeasesFollowTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory.New()
		defer e.Close()
		var ids []kv.LeaseID
		for _, ttl := range []time.Duration{time.Hour, time.Minute} {
			id, err := e.Grant(t.Context(), ttl)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if _, err := e.Txn(t.Context(), nil, []kv.Op{{Key: "hour", Lease: ids[0]}, {Key: "minute", Lease: ids[1]}}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			wait time.Duration
			left int64
		}{{59 * time.Second, 2}, {2 * time.Second, 1}, {58 * time.Minute, 1}, {time.Minute, 0}} {
			time.Sleep(step.wait)
			synctest.Wait()
			resp, err := e.Range(t.Context(), kv.RangeRequest{Key: "a", End: "z"})
			if err != nil || resp.Count != step.left {
				t.Errorf("after %v more %d keys are left, want %d (%v)", step.wait, resp.Count, step.left, err)
			}
		}
	})
}

func TestQuota(t *testing.T) {
	e := memory.NewWith(memory.Config{QuotaBytes: 1000})
	defer e.Close()
	big := kv.Op{Key: "k", Value: make([]byte, 600)}
	if _, err := e.Txn(t.Context(), nil, []kv.Op{big}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Txn(t.Context(), nil, []kv.Op{big}); !errors.Is(err, kv.ErrNoSpace) {
		t.Fatalf("beyond the quota: %v", err)
	}
	resp, err := e.Txn(t.Context(), nil, []kv.Op{{Delete: true, Key: "k"}})
	if err != nil {
		t.Fatalf("a delete beyond the quota: %v", err)
	}
	if err := e.Compact(t.Context(), resp.Revision); err != nil {
		t.Fatal(err)
	}
	if size, err := e.Size(t.Context()); err != nil || size != 0 {
		t.Errorf("size %d after everything was deleted and compacted: %v", size, err)
	}
	if _, err := e.Txn(t.Context(), nil, []kv.Op{big}); err != nil {
		t.Fatal(err)
	}
}
