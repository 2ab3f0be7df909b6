// Package downward reads values out of a pod for the pod itself: fieldRef and resourceFieldRef of environment variables
// and downward API volumes. Pure functions.
package downward
