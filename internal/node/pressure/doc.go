// Package pressure decides whether a node runs out of memory or disk, and which pod has to go then (node-pressure
// eviction). Deciding is a pure function; reading the signals is the only I/O.
package pressure
