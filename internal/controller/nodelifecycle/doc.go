// Package nodelifecycle watches over nodes: a node whose lease runs out is marked Unknown, and what its conditions say becomes taints that keep
// new pods away and, for nodes that are not ready or unreachable, let running ones be evicted (package tainteviction does that).
package nodelifecycle
