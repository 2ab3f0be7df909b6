package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type state struct {
	Names []string `json:"names,omitempty"`
}

func TestSaveAndLoad(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "checkpoint"), Version: 3}
	got := state{Names: []string{"before"}}
	if err := f.Load(&got); err != nil || len(got.Names) != 1 {
		t.Errorf("without a file: %v, %v", got, err)
	}
	for _, tc := range []struct {
		names []string
		want  string
	}{{nil, `{"version":3}`}, {[]string{"a", "b"}, `{"version":3,"names":["a","b"]}`}} {
		if err := f.Save(state{tc.names}); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(f.Path); err != nil || string(data) != tc.want {
			t.Errorf("the file has %s, %v; want %s", data, err, tc.want)
		}
		var got state
		if err := f.Load(&got); err != nil || strings.Join(got.Names, " ") != strings.Join(tc.names, " ") {
			t.Errorf("got %v, %v; want %v", got.Names, err, tc.names)
		}
	}
	if info, err := os.Stat(f.Path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRefused(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "checkpoint"), Version: 3}
	for content, want := range map[string]string{
		"":                         "unexpected end of JSON input",
		`{"version":3,"names":["a`: "unexpected end of JSON input",
		`[]`:                       "cannot unmarshal array",
		`{}`:                       "version 0 is not known",
		`{"version":4,"names":1}`:  "version 4 is not known",
		`{"version":3,"names":1}`:  "cannot unmarshal number",
	} {
		if err := os.WriteFile(f.Path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.Load(&state{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), f.Path) {
			t.Errorf("%s: got %v, want %s", content, err, want)
		}
	}
	for _, v := range []any{nil, 1, []int{1}, func() {}} {
		if err := f.Save(v); err == nil {
			t.Errorf("%v was saved", v)
		}
	}
	if err := (File{Path: filepath.Join(t.TempDir(), "none", "checkpoint")}).Save(state{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
