package cluster

import (
	"slices"
	"testing"

	"github.com/celox/celox/internal/cluster/config"
)

// TestControllersAreKnown: what --controllers is checked against before anything is there is what there is then.
func TestControllersAreKnown(t *testing.T) {
	made := []string{config.SchedulerName}
	for _, e := range new(Server).controllers(nil, new(controlPlane), nil, nil, nil, nil) {
		made = append(made, e.name)
	}
	slices.Sort(made)
	known := slices.Sorted(slices.Values(config.Controllers()))
	if !slices.Equal(made, known) {
		t.Errorf("there are   %q\nconfig knows %q", made, known)
	}
	if got := slices.Compact(slices.Clone(made)); len(got) != len(made) {
		t.Errorf("two have one name: %q", made)
	}
}
