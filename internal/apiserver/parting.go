package apiserver

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// The scheduler tells a victim why it must go, in its status, and deletes it. It asks for both at once: that is one write, and one change for everybody who watches, instead of
// two.

// mayPart finds out whether the deletion of a pod changes its status too, for which the caller must have the right.
func (x *exchange) mayPart() error {
	if !x.scope.InProcess || x.res.gvr != podsResource {
		return nil
	}
	if x.parting = request.PartingFrom(x.ctx); x.parting == nil {
		return nil
	}
	a := request.AttributesOf(x.user, x.info)
	a.Verb, a.Subresource = "patch", "status"
	return x.allowed(a)
}

// told is a pod that is being deleted with the status that its deletion gives it; nil if it has that already. Of a pod that goes at once this is what watchers are shown as its last
// state; of others it is written, and so everything is asked and checked that is when a status is patched.
func (x *exchange) told(current *store.Item, gone, dryRun bool) (store.Object, error) {
	patched := func(live api.Object) (api.Object, error) {
		return x.patched(&apply.Patch{Type: types.StrategicMergePatchType, Edit: x.parting}, live)
	}
	if gone {
		return patched(current.Object)
	}
	o := writeOptions{dryRun: dryRun}
	m, commit, err := x.change(&updating{
		sub: "status", options: o, change: patched, admitOptions: o.forUpdate(),
		attributes: func(a *admission.Attributes) { a.Subresource = "status" },
	}, current)
	if commit != nil {
		commit(false) // pods reserve nothing
	}
	return m.Object, err
}
