package core

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
)

// Kinds returns the kinds of the core group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		binding(), componentStatus(), configMap(), endpoints(), event(), limitRange(), namespace(), node(), persistentVolumeClaim(), persistentVolume(),
		pod(), podTemplate(), replicationController(), resourceQuota(), secret(), serviceAccount(), service(),
	}
}

// options is a connect subresource that speaks the given options kind of the core group.
func options(name, kind string, verbs ...string) api.Subresource {
	return api.Subresource{Name: name, Kind: schema.GroupVersionKind{Version: "v1", Kind: kind}, Verbs: verbs}
}

// proxyVerbs are the methods that a proxy subresource forwards.
func proxyVerbs() []string { return []string{"create", "delete", "get", "patch", "update"} }
