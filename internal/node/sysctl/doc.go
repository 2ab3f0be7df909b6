// Package sysctl knows which kernel settings a pod may change: those that are safe, and those that an administrator allows besides.
// It decides by names alone and touches no kernel; it must not know pods, files or the runtime.
package sysctl
