package dra

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/node/checkpoint"
)

// kept is what the file has.
type kept struct {
	Claims []*claim `json:"claims"`
}

func on(file string) checkpoint.File { return checkpoint.File{Path: file, Version: 1} }

func load(file string) (map[types.UID]*claim, error) {
	out := map[types.UID]*claim{}
	var c kept
	if err := on(file).Load(&c); err != nil {
		return nil, err
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

// save writes the file. m.mu must be held.
func (m *Manager) save() error {
	var c kept
	for _, uid := range slices.Sorted(maps.Keys(m.claims)) {
		c.Claims = append(c.Claims, m.claims[uid])
	}
	if err := on(m.cfg.File).Save(c); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}
