// Package clusterroleaggregation fills ClusterRoles that have an aggregationRule with the rules of the roles that it selects. It must not know which
// roles a cluster starts with.
package clusterroleaggregation
