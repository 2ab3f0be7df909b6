// Package server is the kubelet's HTTP API: logs, exec, attach, port-forward, stats, metrics and the list of pods. It
// serves; who asks and whether they may is decided by functions that it is given, and what it shows comes from a Backend.
package server
