package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestStartup: each check fails until its part of the start is done, and shutdown when the end has begun.
func TestStartup(t *testing.T) {
	running, stop := context.WithCancel(t.Context())
	p := &controlPlane{}
	failing := func() string {
		var names []string
		for _, c := range p.checks(running) {
			if c.Name == "etcd" || c.Name == "etcd-readiness" || c.Name == "autoregister-completion" {
				continue // they ask others
			}
			if err := c.Run(t.Context()); err != nil {
				names = append(names, strings.TrimPrefix(c.Name, "poststarthook/"))
			}
		}
		return strings.Join(names, " ")
	}
	if got := failing(); !strings.HasPrefix(got, "informer-sync start-apiserver-admission-initializer ") {
		t.Errorf("at first: %s", got)
	}
	for _, m := range []milestone{cachesFull, apiMade, flowFollowed, groupsFollowed} {
		p.startup.reach(m)
	}
	want := "start-system-namespaces-controller start-cluster-authentication-info-controller start-service-ip-repair-controllers rbac/bootstrap-roles " +
		"scheduling/bootstrap-system-priority-classes priority-and-fairness-config-producer bootstrap-controller start-kubernetes-service-cidr-controller"
	if got := failing(); got != want {
		t.Errorf("without the first objects and the controllers: %s", got)
	}
	p.startup.reach(firstObjectsMade)
	if got := failing(); got != "start-service-ip-repair-controllers" {
		t.Errorf("without the controllers: %s", got)
	}
	components := func() string {
		var said []string
		for _, c := range p.components() {
			if c.Name != "etcd-0" { // it asks others
				said = append(said, fmt.Sprint(c.Name, " ", c.Run(t.Context())))
			}
		}
		return strings.Join(said, ", ")
	}
	if got := components(); got != "scheduler not finished, controller-manager not finished" {
		t.Errorf("components without the controllers: %s", got)
	}
	p.startup.reach(controllersBegun)
	if got := failing(); got != "" {
		t.Errorf("when all is done: %s", got)
	}
	if got := components(); got != "scheduler <nil>, controller-manager <nil>" {
		t.Errorf("components when all is done: %s", got)
	}
	stop()
	if got := failing(); got != "shutdown" {
		t.Errorf("at the end: %s", got)
	}
}
