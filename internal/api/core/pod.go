package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/podspec"
)

func pod() *api.Kind {
	return &api.Kind{
		Kind: "Pod", Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"}, Namespaced: true, Prefix: "pods",
		Versions: []api.Version{api.NewVersion[corev1.Pod, corev1.PodList]("v1")}, Hub: "v1",
		Subresources:           []api.Subresource{api.Status()},
		HasGeneration:          true,
		PrepareForCreate:       api.On(func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }),
		PrepareForUpdate:       api.OnUpdate(func(p, old *corev1.Pod) { p.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(p, old *corev1.Pod) { p.Spec = old.Spec }),
		Default:                api.On(func(p *corev1.Pod) { podspec.SetPodSpecDefaults(&p.Spec) }),
		FieldNames:             []string{"spec.nodeName", "status.phase"},
		Fields: func(obj api.Object) fields.Set {
			p := obj.(*corev1.Pod)
			return fields.Set{"spec.nodeName": p.Spec.NodeName, "status.phase": string(p.Status.Phase)}
		},
		Indexes: map[string]func(api.Object) []string{"spec.nodeName": func(o api.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }},
	}
}
