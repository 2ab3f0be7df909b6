// Package nodelifecycle watches over nodes: a node whose lease runs out is marked Unknown, and what its conditions say becomes taints that keep
// new pods away and, for nodes that are not ready or unreachable, let running ones be evicted (package tainteviction does that). Evictions are paced by
// zone, and slower or none where so many nodes are silent that it may be us who cannot hear (zones.go): a partition must not kill healthy tasks.
package nodelifecycle
