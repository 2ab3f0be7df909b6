package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api"
)

func deviceTaintRule() *api.Kind {
	return &api.Kind{
		Group:        "resource.k8s.io",
		Kind:         "DeviceTaintRule",
		Resource:     "devicetaintrules",
		Singular:     "devicetaintrule",
		Prefix:       "devicetaintrules",
		Versions:     []api.Version{api.NewVersion[resourcev1.DeviceTaintRule, resourcev1.DeviceTaintRuleList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
