package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"github.com/celox/celox/internal/api"
)

func horizontalPodAutoscaler() *api.Kind {
	return &api.Kind{
		Group:        "autoscaling",
		Kind:         "HorizontalPodAutoscaler",
		Resource:     "horizontalpodautoscalers",
		Singular:     "horizontalpodautoscaler",
		ShortNames:   []string{"hpa"},
		Categories:   []string{"all"},
		Namespaced:   true,
		Prefix:       "horizontalpodautoscalers",
		Versions:     []api.Version{api.NewVersion[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList]("v2")},
		Hub:          "v2",
		Subresources: []api.Subresource{api.Status()},
	}
}
