package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"github.com/celox/celox/internal/api"
)

func job() *api.Kind {
	return &api.Kind{
		Group:        "batch",
		Kind:         "Job",
		Resource:     "jobs",
		Singular:     "job",
		Categories:   []string{"all"},
		Namespaced:   true,
		Prefix:       "jobs",
		Versions:     []api.Version{api.NewVersion[batchv1.Job, batchv1.JobList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
