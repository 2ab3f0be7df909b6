package dra

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

// checkpoint is the file. A version that isn't known is refused: what it says can't be undone by guessing.
type checkpoint struct {
	Version int      `json:"version"`
	Claims  []*claim `json:"claims"`
}

const checkpointVersion = 1

func load(file string) (map[types.UID]*claim, error) {
	out := map[types.UID]*claim{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	} else if err != nil {
		return nil, err
	}
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if c.Version != checkpointVersion {
		return nil, fmt.Errorf("%s: version %d is not known", file, c.Version)
	}
	for _, one := range c.Claims {
		if one == nil || one.UID == "" {
			return nil, fmt.Errorf("%s: a claim without uid", file)
		}
		if one.Drivers == nil {
			one.Drivers = map[string][]device{}
		}
		out[one.UID] = one
	}
	return out, nil
}

// save writes the file: the old one stays whole until the new one is. m.mu must be held.
func (m *Manager) save() error {
	c := checkpoint{Version: checkpointVersion}
	for _, uid := range slices.Sorted(maps.Keys(m.claims)) {
		c.Claims = append(c.Claims, m.claims[uid])
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: %w", m.cfg.File, err)
	}
	tmp := m.cfg.File + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := os.Rename(tmp, m.cfg.File); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}
