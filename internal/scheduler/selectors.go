package scheduler

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// selectors finds out what selects a pod together with others: the services that send it traffic, and its controller.
type selectors struct {
	services    corelisters.ServiceLister
	controllers corelisters.ReplicationControllerLister
	sets        appslisters.ReplicaSetLister
	stateful    appslisters.StatefulSetLister
}

// SelectedBy is what Snapshot.SetSelectors wants, from listers.
func SelectedBy(services corelisters.ServiceLister, controllers corelisters.ReplicationControllerLister, sets appslisters.ReplicaSetLister,
	stateful appslisters.StatefulSetLister) func(*v1.Pod) labels.Selector {
	return (&selectors{services, controllers, sets, stateful}).of
}

// of returns all of that in one selector, nil if there is nothing.
func (l *selectors) of(pod *v1.Pod) labels.Selector {
	var all []labels.Requirement
	add := func(sel labels.Selector) {
		if r, ok := sel.Requirements(); ok {
			all = append(all, r...)
		}
	}
	if len(pod.Labels) > 0 {
		services, err := l.services.Services(pod.Namespace).List(labels.Everything())
		for i := 0; err == nil && i < len(services); i++ {
			if sel := services[i].Spec.Selector; len(sel) > 0 && labels.SelectorFromValidatedSet(sel).Matches(labels.Set(pod.Labels)) {
				add(labels.SelectorFromValidatedSet(sel))
			}
		}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		switch owner.Kind {
		case "ReplicationController":
			if o, err := l.controllers.ReplicationControllers(pod.Namespace).Get(owner.Name); err == nil {
				add(labels.SelectorFromValidatedSet(o.Spec.Selector))
			}
		case "ReplicaSet":
			if o, err := l.sets.ReplicaSets(pod.Namespace).Get(owner.Name); err == nil {
				add(selectorOf(o.Spec.Selector))
			}
		case "StatefulSet":
			if o, err := l.stateful.StatefulSets(pod.Namespace).Get(owner.Name); err == nil {
				add(selectorOf(o.Spec.Selector))
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	return labels.NewSelector().Add(all...)
}
