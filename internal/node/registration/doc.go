// Package registration keeps the node's own objects in the API: the Node, with what the machine has and how it is, and its
// lease. It writes when something changed, and periodically only if it is told to.
//
// It reads the machine and asks the runtime for its state. It must not know pods.
package registration
