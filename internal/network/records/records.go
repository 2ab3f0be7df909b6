package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/celox/celox/internal/atomicfile"
)

// suffix is of the file of a record.
const suffix = ".json"

// Keep writes the record of a sandbox, whole or not at all. It isn't forced to the disk: a namespace doesn't outlive the machine either.
func Keep(dir, id string, record any) error {
	b, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode state of sandbox: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, id+suffix), b, 0o600, atomicfile.Unsynced); err != nil {
		return fmt.Errorf("keep state of sandbox: %w", err)
	}
	return nil
}

// Forget removes the record of a sandbox, if there is one.
func Forget(dir, id string) error {
	if err := os.Remove(filepath.Join(dir, id+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget sandbox: %w", err)
	}
	return nil
}

// Recall hands over the records of earlier processes, and removes those that keep returns false for, and what was never written whole. A directory that doesn't
// exist has none.
func Recall(dir string, keep func(id, file string, data []byte) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if keep(id, path, b) {
				continue
			}
		} else if !atomicfile.Leftover(e.Name()) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// Any says whether a directory has a record.
func Any(dir string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	return len(files) > 0, err
}
