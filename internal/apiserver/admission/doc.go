// Package admission decides, after authorization and before validation, whether a write is let in and what it is completed with.
// A plugin is a Mutator, a Validator or both; a Chain runs them in order. The plugins here are the built-in ones that upstream
// turns on by default.
//
// The package reads the cluster through small interfaces that each plugin states, and must not know HTTP. It writes one thing:
// what a quota is charged, in the same step that checks it.
package admission
