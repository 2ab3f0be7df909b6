package controller

import (
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// bySlicesService is the index of SlicesOf.
const bySlicesService = "controller.celox.service"

// SlicesOf returns what finds the slices of a service that one controller manages, without a look at those of all others in the namespace. They are
// the cache's own.
func SlicesOf(informer cache.SharedIndexInformer, manager string) (func(namespace, service string) ([]*discoveryv1.EndpointSlice, error), error) {
	indexer := informer.GetIndexer()
	if indexer.GetIndexers()[bySlicesService] == nil { // another controller may have been before
		if err := informer.AddIndexers(cache.Indexers{bySlicesService: func(obj any) ([]string, error) {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
				return nil, nil
			}
			return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
		}}); err != nil {
			return nil, fmt.Errorf("index endpoint slices by service: %w", err)
		}
	}
	return func(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
		found, err := indexer.ByIndex(bySlicesService, namespace+"/"+service)
		if err != nil {
			return nil, fmt.Errorf("list endpoint slices: %w", err)
		}
		var out []*discoveryv1.EndpointSlice
		for _, obj := range found {
			if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelManagedBy] == manager {
				out = append(out, s)
			}
		}
		return out, nil
	}, nil
}
