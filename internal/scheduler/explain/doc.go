// Package explain says, in plain words, why a pod has no node, or how it came by the one that it has: for each node which plugin speaks against it, what would have to change,
// and which node is the nearest to fitting.
//
// The verdicts are those of the scheduler's own core ([scheduler.Snapshot.Diagnose]), over a snapshot that is read from the API at this moment, so that it
// works from afar, with any kubeconfig that may read nodes and pods. The package adds the words; it decides nothing itself, and changes nothing.
package explain
