package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/connect"
	"github.com/celox/celox/internal/apiserver/discovery"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/openapi"
	"github.com/celox/celox/internal/apiserver/resourcemetrics"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/store"
)

// measuredNodes are the nodes that resourcemetrics reads from.
type measuredNodes struct {
	*connect.Connector
	nodes *store.Collection
}

// Nodes implements resourcemetrics.Nodes.
func (m measuredNodes) Nodes(ctx context.Context) ([]*corev1.Node, error) {
	l, err := m.nodes.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.Node, 0, len(l.Items))
	for _, item := range l.Items {
		if n, ok := item.Object.(*corev1.Node); ok {
			out = append(out, n)
		}
	}
	return out, nil
}

// resourceMetrics starts what serves metrics.k8s.io, unless another one is to.
func (s *Server) resourceMetrics(run *group, p *controlPlane, objects *lookup.Objects, way *connect.Connector, docs *discovery.Handler, schemas *openapi.Handler) (map[schema.GroupVersion]apiserver.Computed, error) {
	if s.cfg.Disables(config.MetricsServer) {
		return nil, nil
	}
	nodes, ok := p.store.Collection(schema.GroupResource{Resource: "nodes"})
	if !ok {
		return nil, fmt.Errorf("the catalogue has no nodes")
	}
	collector := resourcemetrics.NewCollector(measuredNodes{way, nodes}, clock.RealClock{}, s.log)
	run.run("metrics of resources", collector.Run)
	api := resourcemetrics.New(collector, objects, func() bool { return p.aggregator.HasGroup(resourcemetrics.Group) })
	docs.AddSource(api)
	schemas.AddSource(api)
	computed := map[schema.GroupVersion]apiserver.Computed{}
	for _, gv := range resourcemetrics.GroupVersions() {
		computed[gv] = api.In(gv)
	}
	return computed, nil
}
