// Package hook runs the lifecycle hooks of containers: postStart and preStop, as a command, an HTTP request or a pause.
//
// It must not know when hooks are due or what their failure means.
package hook
