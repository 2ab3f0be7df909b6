package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/store"
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
	st, err := store.New(context.WithoutCancel(run.parent), measured.Beside(engine, registry, "events"), store.Options{Logger: s.log})
	if err != nil {
		return nil, err
	}
	run.atEnd("store of events", st.Close)
	return map[schema.GroupResource]*store.Store{{Resource: "events"}: st}, nil
}
