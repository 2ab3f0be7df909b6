package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/celox/celox/internal/api"
)

func priorityLevelConfiguration() *api.Kind {
	return &api.Kind{
		Group:        "flowcontrol.apiserver.k8s.io",
		Kind:         "PriorityLevelConfiguration",
		Resource:     "prioritylevelconfigurations",
		Singular:     "prioritylevelconfiguration",
		Prefix:       "prioritylevelconfigurations",
		Versions:     []api.Version{api.NewVersion[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
