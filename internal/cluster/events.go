package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/journal"
	"github.com/celox/celox/internal/store/kv/observed"
)

// eventsQuota is how much of events is kept at most, and eventsShare which part of the machine's memory, as a divisor: they are in memory. What comes then is refused
// until some have ended.
const (
	eventsQuota = 1 << 30
	eventsShare = 16
)

// apart makes the stores of those resources that the embedded etcd is spared: events, which are half of all writes and may be lost. An etcd of the
// user's has all: several servers may share it.
func (s *Server) apart(run *group, measured *observed.Engine, registry prometheus.Registerer) (map[schema.GroupResource]*store.Store, error) {
	if len(s.cfg.EtcdServers) > 0 {
		return nil, nil
	}
	quota := int64(eventsQuota)
	if memory := machineMemory(); memory > 0 {
		quota = min(quota, int64(memory/eventsShare))
	}
	engine, err := journal.Open(journal.Config{Path: filepath.Join(s.cfg.DataDir, eventsFile), QuotaBytes: quota, Logger: s.log})
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	run.atEnd("journal of events", engine.Close)
	if err := moveEvents(run.parent, measured.Engine, engine); err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	st, err := store.New(context.WithoutCancel(run.parent), measured.Beside(engine, registry, "events"), store.Options{Logger: s.log})
	if err != nil {
		return nil, err
	}
	run.atEnd("store of events", st.Close)
	return map[schema.GroupResource]*store.Store{{Resource: "events"}: st}, nil
}

// Keys of events, as upstream has them.
const (
	eventKeys    = "/registry/events/"
	eventKeysEnd = "/registry/events0" // the first key after all of them
	// movedAtOnce is below what etcd takes in one transaction (128).
	movedAtOnce = 100
	// movedTTL is how long events live that come from etcd: as new ones do.
	movedTTL = time.Hour
)

// moveEvents takes events out of etcd, where an upstream cluster has left them, or a Celox that kept them there.
func moveEvents(ctx context.Context, etcd, to kv.Engine) error {
	var lease kv.LeaseID
	for {
		page, err := etcd.Range(ctx, kv.RangeRequest{Key: eventKeys, End: eventKeysEnd, Limit: movedAtOnce})
		if err != nil || len(page.KVs) == 0 {
			return err
		}
		if lease == 0 {
			if lease, err = to.Grant(ctx, movedTTL); err != nil {
				return err
			}
		}
		puts, deletes := make([]kv.Op, len(page.KVs)), make([]kv.Op, len(page.KVs))
		for i, item := range page.KVs {
			puts[i] = kv.Op{Key: item.Key, Value: item.Value, Lease: lease}
			deletes[i] = kv.Op{Key: item.Key, Delete: true}
		}
		// One by one: they may be more together than a transaction takes.
		for _, put := range puts {
			if _, err := to.Txn(ctx, nil, []kv.Op{put}); err != nil {
				return err
			}
		}
		if _, err := etcd.Txn(ctx, nil, deletes); err != nil {
			return err
		}
	}
}
