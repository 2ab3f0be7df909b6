package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
)

var tokenRequestKind = schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}

// binding is the old door to binding pods: the same as the pods' subresource.
func binding() *api.Kind {
	return &api.Kind{
		Kind: "Binding", Resource: "bindings", Singular: "binding", Namespaced: true, Virtual: true,
		Versions: []api.Version{{Version: "v1", New: func() runtime.Object { return &corev1.Binding{} }}}, Hub: "v1",
		Verbs: []string{"create"},
	}
}

// componentStatus is deprecated since v1.19; it is answered from the server's own health.
func componentStatus() *api.Kind {
	return &api.Kind{
		Kind: "ComponentStatus", Resource: "componentstatuses", Singular: "componentstatus", ShortNames: []string{"cs"}, Virtual: true,
		Versions: []api.Version{api.NewVersion[corev1.ComponentStatus, corev1.ComponentStatusList]("v1")}, Hub: "v1",
		Verbs: []string{"get", "list"},
		Columns: api.Columns(table.Name(),
			table.Column("Status", table.String, "Status of the component conditions"),
			table.Column("Message", table.String, "Message of the component conditions"),
			table.Column("Error", table.String, "Error of the component conditions")),
		Row: api.Row(func(c *corev1.ComponentStatus, _ time.Time) []any {
			status, message, fault := "Unknown", "", ""
			for _, cond := range c.Conditions {
				if cond.Type == corev1.ComponentHealthy {
					status, message, fault = "Unhealthy", cond.Message, cond.Error
					if cond.Status == corev1.ConditionTrue {
						status = "Healthy"
					}
				}
			}
			return []any{c.Name, status, message, fault}
		}),
	}
}
