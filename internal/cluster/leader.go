package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/cluster/election"
)

// heartbeat is how often nodes renew their leases where several servers may watch over them.
const heartbeat = 10 * time.Second

// elects says that other servers may have the same store, so that one of them has to lead. The embedded store has one server, which needs no lease.
func (s *Server) elects() bool { return len(s.cfg.EtcdServers) > 0 }

// elect starts what only one server may do, whenever it is this one that holds the lease, and ends it when it no longer does.
func (s *Server) elect(run *group, p *controlPlane, lease, username string, start func(term *group) error) error {
	c, err := p.client(&user.DefaultInfo{Name: username, Groups: []string{user.AllAuthenticated}}, "leader-election")
	if err != nil {
		return err
	}
	leads := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "leader_election_master_status", Help: "Whether this process holds the lease: 1 if it does, 0 if it waits.", ConstLabels: prometheus.Labels{"name": lease},
	})
	if err := p.metrics.Register(leads); err != nil {
		return fmt.Errorf("metrics of the election of %s: %w", lease, err)
	}
	cfg := election.Config{
		Leases: c.CoordinationV1().Leases(metav1.NamespaceSystem), Name: lease, Identity: s.cfg.NodeName + "_" + string(uuid.NewUUID()),
		Recorder: s.recorder(run, c, lease), Log: s.log,
		Lead: func(ctx context.Context) error {
			leads.Set(1)
			defer leads.Set(0)
			term := newGroup(ctx)
			return term.to(func() {
				if err := start(term); err != nil {
					term.fail(err)
				}
			})
		},
	}
	run.run("election of "+lease, func(ctx context.Context) error { return election.Run(ctx, cfg) })
	return nil
}

// renewing lets the metrics of a later term take the place of those of an earlier one.
type renewing struct{ prometheus.Registerer }

// Register registers c, instead of what has the same names.
func (r renewing) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) && r.Unregister(there.ExistingCollector) {
		return r.Registerer.Register(c)
	}
	return err
}

// MustRegister is Register for each; it panics where that fails.
func (r renewing) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}
