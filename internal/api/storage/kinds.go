package storage

import "github.com/celox/celox/internal/api"

// Kinds returns the kinds of the group, made afresh.
func Kinds() []*api.Kind {
	return []*api.Kind{csiDriver(), csiNode(), csiStorageCapacity(), storageClass(), volumeAttachment(), volumeAttributesClass()}
}
