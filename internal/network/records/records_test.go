package records

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRecords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "records")
	if err := Recall(dir, func(string, string, []byte) bool { return true }); err != nil {
		t.Errorf("without the directory: %v", err)
	}
	if err := Forget(dir, "a"); err != nil {
		t.Errorf("without the directory: %v", err)
	}
	if some, err := Any(dir); some || err != nil {
		t.Errorf("without the directory: %v, %v", some, err)
	}
	if err := Keep(dir, "a", 1); err == nil {
		t.Error("kept in no directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for id, v := range map[string]any{"a": "one", "b": 2, "c": nil} {
		if err := Keep(dir, id, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := Keep(dir, "x", func() {}); err == nil {
		t.Error("a function is kept")
	}
	for _, n := range []string{".half.json.new", "other"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Forget(dir, "c"); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := Recall(dir, func(id, file string, data []byte) bool {
		got = append(got, id+"="+string(data))
		return filepath.Dir(file) == dir && id != "a"
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{`a="one"`, "b=2"}) {
		t.Errorf("recalled %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if !slices.Equal(left, []string{"b.json", "other"}) {
		t.Errorf("left: %q", left)
	}
	if some, err := Any(dir); !some || err != nil {
		t.Errorf("%v, %v", some, err)
	}
}
