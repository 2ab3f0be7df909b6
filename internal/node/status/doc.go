// Package status says what the API shall read about a pod: phase, conditions and container statuses, as a function of
// the pod, what the runtime reports, why containers wait and what the probes found. No clock, no I/O.
//
// It must not know how containers are started or who writes the status.
package status
