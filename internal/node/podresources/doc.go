// Package podresources tells programs on the node which pod has which devices: the kubelet's gRPC service v1.PodResourcesLister (KEP-606, KEP-3695), which
// exporters of metrics of GPUs ask.
//
// Devices are those of device plugins (package deviceplugin) and those of claims (package dra). There are no CPUs and no memory of a pod's own on a node of Celox, so these lists are empty.
package podresources
