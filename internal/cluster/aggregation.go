package cluster

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/aggregate"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/resourcemetrics"
	"github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/store"
)

// aggregator makes what passes requests on to other API servers.
func (s *Server) aggregator(ctx context.Context, p *controlPlane, objects *lookup.Objects) (*aggregate.Aggregator, error) {
	c := aggregate.Config{Objects: objects, Resolver: webhook.NewServices(objects), Dial: p.passages.DialPod, Certificate: p.certs.FrontProxyClient().Certificate, Logger: s.log}
	for gr, to := range map[schema.GroupResource]*store.Reader{
		{Group: "apiregistration.k8s.io", Resource: "apiservices"}:             &c.APIServices,
		{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}: &c.Definitions,
		{Resource: "services"}:                                  &c.Services,
		{Group: "discovery.k8s.io", Resource: "endpointslices"}: &c.EndpointSlices,
	} {
		col, ok := p.store.Collection(gr)
		if !ok {
			return nil, fmt.Errorf("the catalogue has no %s", gr)
		}
		*to = col
	}
	for _, g := range p.catalogue.Groups() {
		if g.Name == apiregistrationv1.GroupName {
			continue // the group of APIServices is not itself registered by one, as upstream
		}
		for _, v := range g.Versions {
			l := aggregate.Local{GroupVersion: schema.GroupVersion{Group: g.Name, Version: v.Version}}
			l.GroupPriority, l.VersionPriority = api.Priority(l.GroupVersion)
			c.Local = append(c.Local, l)
		}
	}
	if !s.cfg.Disables(config.MetricsServer) {
		for _, gv := range resourcemetrics.GroupVersions() {
			c.Local = append(c.Local, aggregate.Local{
				GroupVersion: gv, GroupPriority: resourcemetrics.GroupPriority, VersionPriority: resourcemetrics.VersionPriority, Yields: true,
			})
		}
	}
	return aggregate.New(ctx, c)
}

// runAggregator keeps the APIServices true.
func (s *Server) runAggregator(run *group, p *controlPlane) error {
	if p.aggregator == nil {
		return errors.New("there is no aggregator")
	}
	u := &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}
	c, err := apiregistrationclient.NewForConfig(client.InProcess(p.handler, u, "kube-apiserver"))
	if err != nil {
		return err
	}
	run.run("aggregation", func(ctx context.Context) error {
		p.aggregator.Run(ctx, c.APIServices())
		return nil
	})
	return nil
}
