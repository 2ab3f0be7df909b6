package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/celox/celox/internal/atomicfile"
)

// File is a checkpoint. The methods may not be called at the same time.
type File struct {
	Path    string
	Version int
}

// Load reads the file into state, a pointer to a struct. There is none before the first Save, and state stays as it is.
func (f File) Load(state any) error {
	data, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var has struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &has); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if has.Version != f.Version {
		return fmt.Errorf("%s: version %d is not known", f.Path, has.Version)
	}
	if err := json.Unmarshal(data, state); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

// Save writes the file: the old one stays whole until the new one is, also when the power fails. state is encoded as a JSON object.
func (f File) Save(state any) error {
	data, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if len(data) < 2 || data[0] != '{' {
		return fmt.Errorf("write %s: %T is no object", f.Path, state)
	}
	out := fmt.Appendf(nil, `{"version":%d`, f.Version)
	if len(data) > 2 {
		out = append(out, ',')
	}
	return atomicfile.Write(f.Path, append(out, data[1:]...), 0o600, atomicfile.Synced)
}
