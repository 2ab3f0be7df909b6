package apiextensions

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/celox/celox/internal/api"
)

func customResourceDefinition() *api.Kind {
	return &api.Kind{
		Group:        "apiextensions.k8s.io",
		Kind:         "CustomResourceDefinition",
		Resource:     "customresourcedefinitions",
		Singular:     "customresourcedefinition",
		ShortNames:   []string{"crd", "crds"},
		Categories:   []string{"api-extensions"},
		Prefix:       "apiextensions.k8s.io/customresourcedefinitions",
		Versions:     []api.Version{api.NewVersion[apiextensionsv1.CustomResourceDefinition, apiextensionsv1.CustomResourceDefinitionList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
		StoredAsJSON: true,
	}
}
