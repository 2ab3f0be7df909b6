package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api"
)

func deviceClass() *api.Kind {
	return &api.Kind{
		Group:    "resource.k8s.io",
		Kind:     "DeviceClass",
		Resource: "deviceclasses",
		Singular: "deviceclass",
		Prefix:   "deviceclasses",
		Versions: []api.Version{api.NewVersion[resourcev1.DeviceClass, resourcev1.DeviceClassList]("v1")},
		Hub:      "v1",
	}
}
