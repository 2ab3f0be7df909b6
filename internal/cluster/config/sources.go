package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the names of environment variables: CELOX_DATA_DIR is --data-dir.
const EnvPrefix = "CELOX_"

// notKeys are flags that are no keys of a file or of the environment.
var notKeys = []string{"config", "help"}

// Apply sets the flags that the command line did not set from the environment and then from the file (if its name is not
// empty). Errors name the variable, or the file and line.
func Apply(fs *pflag.FlagSet, environ []string, file string) error {
	if err := applyEnv(fs, environ); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("config file: %w", err)
	}
	return applyFile(fs, file, data)
}

func applyEnv(fs *pflag.FlagSet, environ []string) error {
	var errs []error
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		key, ok := strings.CutPrefix(name, EnvPrefix)
		if !ok {
			continue
		}
		f := fs.Lookup(strings.ReplaceAll(strings.ToLower(key), "_", "-"))
		if f == nil || f.Changed || slices.Contains(notKeys, f.Name) {
			continue // variables of other commands share the prefix
		}
		if err := fs.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", name, value, Reason(err)))
		}
	}
	return errors.Join(errs...)
}

func applyFile(fs *pflag.FlagSet, file string, data []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("config file %s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil // empty
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("config file %s: line %d: want \"key: value\" lines, with the names of the flags", file, root.Line)
	}
	var errs []error
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("config file %s: line %d: %s", file, key.Line, fmt.Sprintf(format, args...)))
		}
		f := fs.Lookup(key.Value)
		if f == nil || slices.Contains(notKeys, key.Value) {
			did := ""
			if like := Suggestion(fs, key.Value); like != "" {
				did = fmt.Sprintf(": did you mean %q?", like)
			}
			bad("unknown key %q%s", key.Value, did)
			continue
		}
		if line, twice := seen[key.Value]; twice {
			bad("key %q stands in line %d already", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		if f.Changed {
			continue // the command line or the environment said otherwise
		}
		text, err := scalar(value)
		if err == nil {
			err = fs.Set(key.Value, text)
		}
		if err != nil {
			bad("%s: %v", key.Value, Reason(err))
		}
	}
	return errors.Join(errs...)
}

// scalar turns a value of the file into what the flag would be given.
func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("want a list of plain values")
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("want a plain value or a list")
}

// Reason says what a value of a flag should have been instead, without naming the flag and the value: the caller has done that.
func Reason(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	switch kind := invalid.GetFlag().Value.Type(); {
	case kind == "bool":
		return errors.New("use true or false")
	case kind == "duration":
		return errors.New("use a time like 90s, 10m or 1h30m")
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return errors.New("use a whole number")
	case strings.HasPrefix(kind, "float"):
		return errors.New("use a number")
	}
	return invalid.Unwrap()
}

// Suggestion is the known key that is most like the given one, "" if none is.
func Suggestion(fs *pflag.FlagSet, key string) string {
	var keys []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notKeys, f.Name) {
			keys = append(keys, f.Name)
		}
	})
	return closest(key, keys)
}

// closest is the known word that is most like the given one, "" if none is.
func closest(word string, known []string) string {
	best, bestDistance := "", 4
	for _, k := range known {
		if d := distance(k, word); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the single-character edits between two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
