package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var benchmark = regexp.MustCompile(`^func (Benchmark\w+)\(`)

// listBenchmarks prints a command for each package of this module that has Go benchmarks. It must run inside the module.
func listBenchmarks(w io.Writer) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	found := map[string][]string{} // package directory to benchmarks
	err = filepath.WalkDir(filepath.Join(root, "internal"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		names, err := benchmarksIn(path)
		if len(names) > 0 {
			found[dir] = append(found[dir], names...)
		}
		return err
	})
	if err != nil {
		return err
	}
	dirs := make([]string, 0, len(found))
	for dir := range found {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		names := found[dir]
		slices.Sort(names)
		if _, err := fmt.Fprintf(w, "go test -run '^$' -bench '^(%s)$' -benchmem ./%s\n", strings.Join(names, "|"), filepath.ToSlash(dir)); err != nil {
			return err
		}
	}
	return nil
}

// moduleRoot is the closest directory at or above the current one that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("no go.mod here or above: run in the source tree")
		}
		dir = filepath.Dir(dir)
	}
}

func benchmarksIn(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	var names []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m := benchmark.FindStringSubmatch(lines.Text()); m != nil {
			names = append(names, m[1])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return names, nil
}
