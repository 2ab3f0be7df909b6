package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func of(content string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(content), nil }
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	path, err := unpack(dir, hash([]byte("one")), of("one"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.Mode().Perm() != 0o755 {
		t.Errorf("mode %v", first.Mode())
	}
	if _, err := unpack(dir, hash([]byte("one")), of("one")); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Stat(path); !os.SameFile(first, again) {
		t.Error("the same content was written again")
	}
	// A start that was killed has left a part, and doesn't leave the directory with more than the program.
	if err := os.WriteFile(filepath.Join(dir, "."+name+".new"), []byte("a longer part of something"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(dir, hash([]byte("two")), of("two")); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Stat(path); os.SameFile(first, again) {
		t.Error("a file that may be running was overwritten instead of replaced")
	} else if again.Mode().Perm() != 0o755 {
		t.Errorf("mode %v after a start that was killed", again.Mode())
	}
	if _, err := unpack(dir, hash([]byte("three")), of("another")); err == nil {
		t.Error("a program with another digest was unpacked")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left in the directory: %v", left)
	}
}

func TestEmbedded(t *testing.T) {
	v, err := Version()
	if errors.Is(err, ErrMissing) {
		if _, err := Unpack(t.TempDir()); !errors.Is(err, ErrMissing) {
			t.Errorf("Unpack without a program: %v", err)
		}
		return
	}
	if err != nil || len(v) != versionDigits {
		t.Errorf("version %q, %v", v, err)
	}
	path, err := Unpack(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || hash(data)[:versionDigits] != v {
		t.Errorf("unpacked something else: %v", err)
	}
}
