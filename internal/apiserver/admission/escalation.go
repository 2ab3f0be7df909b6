package admission

import (
	"context"

	"github.com/celox/celox/internal/apiserver/authz"
)

// Escalation keeps users from granting what they do not hold. It stands behind the plugins that change objects and before
// validation, as upstream's storage of these kinds does.
type Escalation struct{ guard *authz.Guard }

// NewEscalation returns the plugin.
func NewEscalation(guard *authz.Guard) *Escalation { return &Escalation{guard: guard} }

// Admit looks at writes of RBAC objects.
func (p *Escalation) Admit(ctx context.Context, a *Attributes) error {
	if a.Resource.Group != "rbac.authorization.k8s.io" || a.Operation != Create && a.Operation != Update || a.User == nil {
		return nil
	}
	return p.guard.Check(ctx, a.User, a.Name, a.Object, a.OldObject)
}
