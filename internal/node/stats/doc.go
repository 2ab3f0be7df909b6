// Package stats turns what CRI and the kernel count into the kubelet's summary (stats/v1alpha1). It keeps the last
// sample of CPU times, because a rate needs two.
package stats
