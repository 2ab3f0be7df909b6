package cluster

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/store/kv"
)

// milestone is something that a start passes once.
type milestone uint32

const (
	cachesFull       milestone = 1 << iota // the store knows every object
	apiMade                                // admission, definitions of custom resources and limits of requests work
	firstObjectsMade                       // what every cluster has is there
	flowFollowed                           // changed limits of requests are followed
	groupsFollowed                         // the API groups of other servers are followed
	controllersBegun                       // controllers run, or take part in the election of who runs them
)

// startup knows what a start has passed. Its zero value has passed nothing.
type startup struct{ passed atomic.Uint32 }

func (s *startup) reach(m milestone) { s.passed.Or(uint32(m)) }

var errStarting = errors.New("not finished")

func (s *startup) check(m milestone) func(context.Context) error {
	return func(context.Context) error {
		if s.passed.Load()&uint32(m) == 0 {
			return errStarting
		}
		return nil
	}
}

// checks are the lines of the health paths: upstream's names, in upstream's order, for what this server has of it. What upstream calls hooks after the start
// mostly precedes the first request here.
// Clients are to turn to other servers when running ends.
func (p *controlPlane) checks(running context.Context) []apiserver.Check {
	out := []apiserver.Check{
		{Name: "log", Run: func(context.Context) error { return nil }}, // no line waits in a buffer here
		{Name: "etcd", Run: p.stored},
		{Name: "etcd-readiness", Run: p.stored, ReadyOnly: true},
		{Name: "informer-sync", Run: p.startup.check(cachesFull), ReadyOnly: true},
	}
	for _, c := range [...]struct {
		name string
		m    milestone
	}{
		{"start-apiserver-admission-initializer", apiMade},
		{"generic-apiserver-start-informers", cachesFull},
		{"priority-and-fairness-config-consumer", flowFollowed},
		{"priority-and-fairness-filter", apiMade},
		{"storage-object-count-tracker-hook", cachesFull},
		{"start-apiextensions-informers", cachesFull},
		{"start-apiextensions-controllers", apiMade},
		{"crd-informer-synced", apiMade},
		{"start-system-namespaces-controller", firstObjectsMade},
		{"start-cluster-authentication-info-controller", firstObjectsMade},
		{"storage-readiness", cachesFull},
		{"start-service-ip-repair-controllers", controllersBegun},
		{"rbac/bootstrap-roles", firstObjectsMade},
		{"scheduling/bootstrap-system-priority-classes", firstObjectsMade},
		{"priority-and-fairness-config-producer", firstObjectsMade},
		{"bootstrap-controller", firstObjectsMade},
		{"start-kubernetes-service-cidr-controller", firstObjectsMade},
		{"aggregator-reload-proxy-client-cert", groupsFollowed},
		{"start-kube-aggregator-informers", cachesFull},
		{"apiservice-status-local-available-controller", groupsFollowed},
		{"apiservice-status-remote-available-controller", groupsFollowed},
		{"apiservice-registration-controller", groupsFollowed},
		{"apiservice-discovery-controller", groupsFollowed},
		{"kube-apiserver-autoregistration", groupsFollowed},
	} {
		out = append(out, apiserver.Check{Name: "poststarthook/" + c.name, Run: p.startup.check(c.m)})
	}
	return append(out,
		apiserver.Check{Name: "autoregister-completion", Run: func(context.Context) error {
			if !p.aggregator.Registered() {
				return errors.New("APIServices of built-in groups are missing")
			}
			return nil
		}},
		apiserver.Check{Name: "poststarthook/apiservice-openapi-controller", Run: p.startup.check(groupsFollowed)},
		apiserver.Check{Name: "poststarthook/apiservice-openapiv3-controller", Run: p.startup.check(groupsFollowed)},
		apiserver.Check{Name: "shutdown", ReadyOnly: true, Run: func(context.Context) error {
			if running.Err() != nil {
				return errors.New("process is shutting down")
			}
			return nil
		}},
	)
}

// stored asks the engine, which answers only if it works.
func (p *controlPlane) stored(ctx context.Context) error {
	_, err := p.engine.Range(ctx, kv.RangeRequest{Key: "/registry/health", CountOnly: true})
	return err
}

// components are what the API of old shows of a control plane. The process ends with its scheduler and its controllers: while it answers, those that have
// begun are well.
func (p *controlPlane) components() []apiserver.Check {
	begun := p.startup.check(controllersBegun)
	return []apiserver.Check{{Name: "scheduler", Run: begun}, {Name: "controller-manager", Run: begun}, {Name: "etcd-0", Run: p.stored}}
}
