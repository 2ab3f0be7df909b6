package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api"
)

func resourceSlice() *api.Kind {
	return &api.Kind{
		Group:    "resource.k8s.io",
		Kind:     "ResourceSlice",
		Resource: "resourceslices",
		Singular: "resourceslice",
		Prefix:   "resourceslices",
		Versions: []api.Version{api.NewVersion[resourcev1.ResourceSlice, resourcev1.ResourceSliceList]("v1")},
		Hub:      "v1",
	}
}
