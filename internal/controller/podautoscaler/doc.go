// Package podautoscaler keeps the size of workloads where their HorizontalPodAutoscalers want it: it asks the metrics APIs what pods use, or
// what else an autoscaler looks at, computes how many pods that asks for, slows the change down as the autoscaler's behavior says and writes
// the target's scale subresource.
//
// What a number of pods follows from (calculate.go), what limits its change (limits.go) and what the status says (status.go) are functions of
// their inputs; a Reconcile of podautoscaler.go puts them together. It must not know who serves metrics, nor any kind of workload. While there is
// no autoscaler nothing wakes up.
package podautoscaler
