// Command gauge is a metrics adapter as autoscalers ask them: it serves custom.metrics.k8s.io and external.metrics.k8s.io behind APIServices, from
// a pod. What it measures is what a file says, which is read for each answer. Whose values they are it asks the cluster.
//
// The file is a JSON object from a name to a quantity. The name of a metric of pods is pods/METRIC, that of an object RESOURCE/NAME/METRIC, that of
// something outside METRIC; with {SELECTOR} after it if series were selected. It knows client-go and nothing of Celox.
package main
