package catalogue

import (
	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/admissionregistration"
	"github.com/celox/celox/internal/api/apiextensions"
	"github.com/celox/celox/internal/api/apiregistration"
	"github.com/celox/celox/internal/api/apps"
	"github.com/celox/celox/internal/api/authentication"
	"github.com/celox/celox/internal/api/authorization"
	"github.com/celox/celox/internal/api/autoscaling"
	"github.com/celox/celox/internal/api/batch"
	"github.com/celox/celox/internal/api/certificates"
	"github.com/celox/celox/internal/api/coordination"
	"github.com/celox/celox/internal/api/core"
	"github.com/celox/celox/internal/api/discovery"
	"github.com/celox/celox/internal/api/flowcontrol"
	"github.com/celox/celox/internal/api/networking"
	"github.com/celox/celox/internal/api/node"
	"github.com/celox/celox/internal/api/policy"
	"github.com/celox/celox/internal/api/rbac"
	"github.com/celox/celox/internal/api/resource"
	"github.com/celox/celox/internal/api/scheduling"
	"github.com/celox/celox/internal/api/storage"
	"github.com/celox/celox/internal/api/storagemigration"
)

//go:generate go run ./document ../../../docs/api.md

// New returns the catalogue of every built-in kind.
func New() (*api.Catalogue, error) {
	var kinds []*api.Kind
	for _, group := range [...]func() []*api.Kind{
		core.Kinds,
		admissionregistration.Kinds,
		apiextensions.Kinds,
		apiregistration.Kinds,
		apps.Kinds,
		authentication.Kinds,
		authorization.Kinds,
		autoscaling.Kinds,
		batch.Kinds,
		certificates.Kinds,
		coordination.Kinds,
		discovery.Kinds,
		flowcontrol.Kinds,
		networking.Kinds,
		node.Kinds,
		policy.Kinds,
		rbac.Kinds,
		resource.Kinds,
		scheduling.Kinds,
		storage.Kinds,
		storagemigration.Kinds,
	} {
		kinds = append(kinds, group()...)
	}
	return api.NewCatalogue(kinds)
}
