// Package fakecri is a container runtime in memory, for tests: it implements CRI's RuntimeService and
// ImageManagerService, keeps sandboxes and containers as data, sends events, writes logs, and lets a test decide how long
// containers live and what commands in them answer. It starts no process.
package fakecri
