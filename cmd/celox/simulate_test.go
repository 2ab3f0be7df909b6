package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celox/celox/internal/simulate"
)

// celox runs a command and returns what it prints.
func celox(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, progress bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&progress)
	err = root.ExecuteContext(t.Context())
	return out.String(), progress.String(), err
}

func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	scenario, picture := filepath.Join(dir, "small.yaml"), filepath.Join(dir, "r.svg")
	err := os.WriteFile(scenario, []byte("nodes: 5\noperations:\n- createNodes: {count: nodes}\n- createPods: {count: 2*nodes, measure: true}\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{{"--nodes", "2"}, {"--nodes", "2", "--https"}} {
		out, progress, err := celox(t, append([]string{"simulate", "--scenario", scenario, "-o", "json", "--svg", picture, "--dir", dir}, how...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, progress)
		}
		var r simulate.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Scenario != "small" || r.Nodes != 2 || r.Scheduling.Scheduled != 4 {
			t.Errorf("%v: %v %+v", how, err, r)
		}
		if svg, err := os.ReadFile(picture); err != nil || !strings.HasPrefix(string(svg), "<svg") {
			t.Errorf("picture: %v", err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "celox-simulate-*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestSimulateAndExplainSayWhatIsWrong(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("operations: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--scenario: name a file, or one of":                 {"simulate"},
		`there is no built-in scenario "Nothing"`:            {"simulate", "--scenario", "Nothing"},
		"bad.yaml: operations: none":                         {"simulate", "--scenario", bad},
		`--output: "xml": use text or json`:                  {"simulate", "--scenario", "SchedulingBasic", "-o", "xml"},
		"--svg: the directory /none does not exist":          {"simulate", "--scenario", "SchedulingBasic", "--svg", "/none/report.svg"},
		"--heap-profile: the directory /none does not exist": {"simulate", "--scenario", "SchedulingBasic", "--heap-profile", "/none/heap"},
		"--dir: ":                                     {"simulate", "--scenario", "SchedulingBasic", "--dir", "/none"},
		"--nodes: -1: use 1 to 100000":                {"simulate", "--scenario", "SchedulingBasic", "--nodes", "-1"},
		"--timeout: -1s is over already":              {"node", "drain", "x", "--timeout", "-1s"},
		`--data-dir: "" is no directory name`:         {"reset", "--data-dir", "", "--yes"},
		"--scheduler-config":                          {"simulate", "--scenario", "SchedulingBasic", "--scheduler-config", "/nowhere.yaml"},
		"use celox explain pod NAME":                  {"explain", "node", "x"},
		"no cluster is known":                         {"explain", "pod", "x", "--data-dir", filepath.Dir(bad)},
		"no cluster is known: there is no ":           {"explain", "pod/x", "--data-dir", filepath.Dir(bad)},
		`"svc" can't be explained`:                    {"explain", "svc/x"},
		"no images: stat /none: no such file":         {"image", "list", "--data-dir", "/none"},
		"scheduler configuration: open /nowhere.yaml": {"explain", "pod", "x", "--scheduler-config", "/nowhere.yaml"},
	} {
		if _, _, err := celox(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ngot  %v\nwant %s", args, err, want)
		}
	}
}
