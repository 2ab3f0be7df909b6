package deviceplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// checkpoint is the file. A version that isn't known is refused: devices of pods must not be given twice.
type checkpoint struct {
	Version int `json:"version"`
	// Resources are those that the node counts.
	Resources []savedResource    `json:"resources,omitempty"`
	Pods      map[types.UID]held `json:"pods,omitempty"`
}

type savedResource struct {
	Name     string `json:"name"`
	PreStart bool   `json:"preStart,omitempty"`
}

const checkpointVersion = 1

// load reads the file. The resources in it have no devices until their plugins register again.
func (m *Manager) load() error {
	data, err := os.ReadFile(m.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("device plugins: %s: %w", m.cfg.File, err)
	}
	if c.Version != checkpointVersion {
		return fmt.Errorf("device plugins: %s: version %d is not known", m.cfg.File, c.Version)
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

// save writes the file: the old one stays whole until the new one is. m.mu must be held.
func (m *Manager) save() error {
	c := checkpoint{Version: checkpointVersion, Pods: m.pods}
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		if r := m.resources[name]; r.known {
			c.Resources = append(c.Resources, savedResource{name, r.preStart})
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: %w", m.cfg.File, err)
	}
	tmp := m.cfg.File + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("devices of pods: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("devices of pods: %w", err)
	}
	if err := os.Rename(tmp, m.cfg.File); err != nil {
		return fmt.Errorf("devices of pods: %w", err)
	}
	return nil
}
