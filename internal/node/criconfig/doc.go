// Package criconfig translates a pod into what CRI asks for: the sandbox's and the containers' configurations, security,
// resources, names and resolver. Pure functions of the pod and of a few facts about the node.
//
// It must not know when things are started, and does no I/O.
package criconfig
