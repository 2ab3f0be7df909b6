package coordination_test

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/coordination"
)

func TestLease(t *testing.T) {
	apitest.Check(t, coordination.Kinds(), "Lease", []apitest.Case{
		{"empty", "metadata: {name: a}", ""},
		{"held", "metadata: {name: a}\nspec: {holderIdentity: me, leaseDurationSeconds: 40, renewTime: '2026-01-02T03:04:05.678901Z'}", ""},
		{"no time", "metadata: {name: a}\nspec: {leaseDurationSeconds: 0, leaseTransitions: -1}",
			"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0\nspec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"},
	})
	c := apitest.Catalogue(t, coordination.Kinds())
	k := apitest.Kind(t, c.Kinds(), "Lease")
	obj, _ := apitest.Create(t, c, k, "metadata: {name: a}\nspec: {holderIdentity: me, strategy: OldestEmulationVersion, preferredHolder: you}")
	l := obj.(*coordinationv1.Lease)
	if l.Spec.Strategy != nil || l.Spec.PreferredHolder != nil {
		t.Errorf("fields behind a gate stayed: %+v", l.Spec)
	}
	stored := l.DeepCopy()
	stored.Spec.Strategy = new(coordinationv1.OldestEmulationVersion)
	changed := stored.DeepCopy()
	changed.Spec.Strategy, changed.Spec.PreferredHolder = new(coordinationv1.CoordinatedLeaseStrategy("Youngest")), new("you")
	k.PrepareForUpdate(changed, stored)
	if got := apitest.Text(k.ValidateUpdate(changed, stored)); got != `spec.strategy.strategy: Unsupported value: "Youngest": supported values: "OldestEmulationVersion"` {
		t.Error(got)
	}
	if changed.Spec.PreferredHolder != nil {
		t.Error("a preferred holder came with a stored strategy")
	}
	if got := apitest.Row(k, l, time.Now()); got != "a|me|<unknown>" {
		t.Error(got)
	}
}

// BenchmarkRenew is what a node's heartbeat costs between the wire and the store.
func BenchmarkRenew(b *testing.B) {
	c := apitest.Catalogue(b, coordination.Kinds())
	k := apitest.Kind(b, c.Kinds(), "Lease")
	old := apitest.Read(b, c, k, "metadata: {name: a, namespace: kube-node-lease}\nspec: {holderIdentity: a, leaseDurationSeconds: 40, renewTime: '2026-01-02T03:04:05.678901Z'}")
	codec := c.Codec(k)
	data, err := codec.Append(nil, old)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var l api.Object
		if l, err = codec.Decode(data); err != nil {
			b.Fatal(err)
		}
		k.PrepareForUpdate(l, old)
		if errs := k.ValidateUpdate(l, old); len(errs) > 0 {
			b.Fatal(errs)
		}
		if _, err = codec.Append(nil, l); err != nil {
			b.Fatal(err)
		}
	}
}
