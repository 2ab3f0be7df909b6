package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/celox/celox/internal/api"
)

func flowSchema() *api.Kind {
	return &api.Kind{
		Group:        "flowcontrol.apiserver.k8s.io",
		Kind:         "FlowSchema",
		Resource:     "flowschemas",
		Singular:     "flowschema",
		Prefix:       "flowschemas",
		Versions:     []api.Version{api.NewVersion[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
