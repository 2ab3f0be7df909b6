package apiregistration

import (
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/celox/celox/internal/api"
)

func apiService() *api.Kind {
	return &api.Kind{
		Group:        "apiregistration.k8s.io",
		Kind:         "APIService",
		Resource:     "apiservices",
		Singular:     "apiservice",
		Categories:   []string{"api-extensions"},
		Prefix:       "apiregistration.k8s.io/apiservices",
		Versions:     []api.Version{api.NewVersion[apiregistrationv1.APIService, apiregistrationv1.APIServiceList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
		StoredAsJSON: true,
	}
}
