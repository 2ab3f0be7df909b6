// Bench measures a built celox from outside and prints the figures of docs/benchmarks.md, each with its target and its method.
//
// A scenario sets up a stage of its own (test/e2e/machine: a network namespace, a data directory, a server), works on it through the API
// as any client does, and removes it; a run leaves nothing behind, and says so if it does. Bench judges nothing: a missed target is
// printed, not an error. It must not know anything of the server's inside: whatever it reports is seen through the API or in /proc.
// What the packages allocate is told by their own Go benchmarks, which `-list-go` names.
package main
