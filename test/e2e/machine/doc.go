// Package machine is the stage of the end-to-end tests: a machine of its own, which is a network namespace, with the built celox running in
// it on a data directory of its own. It runs commands there, gives client-go a way in, and in the end removes everything and looks whether
// anything was left behind.
package machine
