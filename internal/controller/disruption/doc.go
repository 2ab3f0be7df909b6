// Package disruption keeps the status of PodDisruptionBudgets: how many of their pods are healthy, how many have to be, and how many may be
// evicted now. The API server's eviction spends what it grants.
package disruption
