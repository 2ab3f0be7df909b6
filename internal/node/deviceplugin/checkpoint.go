package deviceplugin

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/node/checkpoint"
)

// kept is what the file has.
type kept struct {
	// Resources are those that the node counts.
	Resources []savedResource    `json:"resources,omitempty"`
	Pods      map[types.UID]held `json:"pods,omitempty"`
}

type savedResource struct {
	Name     string `json:"name"`
	PreStart bool   `json:"preStart,omitempty"`
}

func (m *Manager) checkpoint() checkpoint.File { return checkpoint.File{Path: m.cfg.File, Version: 1} }

// load reads the file. The resources in it have no devices until their plugins register again.
func (m *Manager) load() error {
	var c kept
	if err := m.checkpoint().Load(&c); err != nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	now := m.cfg.Clock.Now()
	for _, s := range c.Resources {
		r := m.resource(s.Name)
		r.known, r.gone, r.preStart = true, now, s.PreStart
	}
	for uid, containers := range c.Pods {
		for name, has := range containers {
			for resource, g := range has {
				if g == nil {
					return fmt.Errorf("device plugins: %s: container %s of pod %s has nothing of %s", m.cfg.File, name, uid, resource)
				}
				m.resource(resource)
			}
		}
		m.pods[uid] = containers
	}
	return nil
}

// save writes the file. m.mu must be held.
func (m *Manager) save() error {
	c := kept{Pods: m.pods}
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		if r := m.resources[name]; r.known {
			c.Resources = append(c.Resources, savedResource{name, r.preStart})
		}
	}
	if err := m.checkpoint().Save(c); err != nil {
		return fmt.Errorf("devices of pods: %w", err)
	}
	return nil
}
