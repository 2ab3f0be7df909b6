package coordination

import "github.com/celox/celox/internal/api"

// Kinds returns the kinds of the group, made afresh.
func Kinds() []*api.Kind {
	return []*api.Kind{lease()}
}
