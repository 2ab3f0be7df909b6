// Package kvtest is the suite that every kv.Engine passes, and a test that runs the same random operations on two engines and
// compares what they say.
package kvtest
