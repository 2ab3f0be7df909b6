package apps

import "github.com/celox/celox/internal/api"

// Kinds returns the kinds of the group, made afresh.
func Kinds() []*api.Kind {
	return []*api.Kind{controllerRevision(), daemonSet(), deployment(), replicaSet(), statefulSet()}
}

// readable is v with what makes annotations of its objects unreadable.
func readable(v api.Version, f func(annotations map[string]string) error) api.Version {
	v.Readable = f
	return v
}
