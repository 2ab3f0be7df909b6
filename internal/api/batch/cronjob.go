package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"github.com/celox/celox/internal/api"
)

func cronJob() *api.Kind {
	return &api.Kind{
		Group:        "batch",
		Kind:         "CronJob",
		Resource:     "cronjobs",
		Singular:     "cronjob",
		ShortNames:   []string{"cj"},
		Categories:   []string{"all"},
		Namespaced:   true,
		Prefix:       "cronjobs",
		Versions:     []api.Version{api.NewVersion[batchv1.CronJob, batchv1.CronJobList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
