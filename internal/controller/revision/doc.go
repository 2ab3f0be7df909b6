// Package revision keeps the history of an object's pod template as ControllerRevisions: finds the one that says what the template says,
// makes it if there is none, and drops the oldest beyond a limit. DaemonSets and StatefulSets share it; it does not know what a
// rollout is.
package revision
