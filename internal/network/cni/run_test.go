package cni

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestConfigurations(t *testing.T) {
	const list, single = `{"cniVersion": "1.0.0", "name": "%", "plugins": [{"type": "x"}]}`, `{"cniVersion": "0.3.1", "name": "%", "type": "x"}`
	named := func(text, name string) string { return strings.Replace(text, "%", name, 1) }
	for name, tt := range map[string]struct {
		files map[string]string
		want  string // the network, or after "! " the error
	}{
		"nothing":             {nil, "! cni plugin not initialized"},
		"other files":         {map[string]string{"README": "x", "10.conflist.bak": "{", "calico-kubeconfig": "x"}, "! cni plugin not initialized"},
		"the first by name":   {map[string]string{"20.conflist": named(list, "b"), "10.conf": named(single, "a"), "30.json": named(single, "c")}, "a"},
		"the first valid one": {map[string]string{"10.conflist": `{"name": "half`, "15.conf": `{"name": "a"}`, "20.json": named(single, "b")}, "b"},
		"none that is valid": {map[string]string{"10.conflist": `{"name": "a", "plugins": []}`, "20.conf": "{"},
			"! (10.conflist: error parsing configuration list: no plugins in list; 20.conf: error parsing configuration"},
		"a name that is no file name": {map[string]string{"10.conflist": named(list, "../../x")}, "! invalid characters found in network name"},
		"plugins in files of their own": {map[string]string{"10.conflist": `{"cniVersion": "1.1.0", "name": "a"}`, "a/1.conf": `{"type": "y"}`},
			"a"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, text := range tt.files {
				write(t, filepath.Join(dir, f), text)
			}
			got, err := load(dir)
			if want, bad := strings.CutPrefix(tt.want, "! "); bad {
				if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cni plugin not initialized") {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if err != nil || got.Name != tt.want {
				t.Fatalf("%v %v", got, err)
			}
			text, err := whole(got)
			if err != nil || !json.Valid(text) || !strings.Contains(string(text), `"type":`) && !strings.Contains(string(text), `"type": `) {
				t.Errorf("%s %v", text, err)
			}
		})
	}
	if _, err := load(filepath.Join(t.TempDir(), "none")); err == nil || err.Error() != "cni plugin not initialized" {
		t.Error(err)
	}
}

// TestReadiness: the network is ready as soon as a configuration and its plugins are there, in whatever order they come, and not ready when they go.
func TestReadiness(t *testing.T) {
	b := newBench(t)
	n := b.open()
	run(t, n)
	is := func(want string) {
		t.Helper()
		until(t, "ready: "+want, func() bool {
			err := n.Ready()
			if want == "" {
				return err == nil
			}
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
	is("cni plugin not initialized")
	if _, err := n.Setup(t.Context(), request("a", newNS(t))); err == nil || err.Error() != "cni plugin not initialized" {
		t.Error(err)
	}
	until(t, "the directory is there", func() bool { _, err := os.Stat(b.bins); return err == nil })
	b.configure("1.0.0")
	is(`network "pods": failed to find plugin "fake"`)
	b.install()
	is("")
	until(t, "somebody was told", func() bool { return b.changes.Load() == 2 })
	write(t, filepath.Join(b.conf, "00-broken.conflist"), "{") // doesn't matter
	remove(t, filepath.Join(b.conf, "10-pods.conflist"))
	is("no valid network configuration in " + b.conf)
	write(t, filepath.Join(b.conf, "00-broken.conflist"), `{"cniVersion": "1.0.0", "name": "mended", "plugins": [{"type": "fake"}]}`)
	is("")
	// The directory itself goes and comes.
	if err := os.RemoveAll(b.conf); err != nil {
		t.Fatal(err)
	}
	is("cni plugin not initialized")
	until(t, "the directory is there again", func() bool { _, err := os.Stat(b.conf); return err == nil })
	b.configure("1.0.0")
	is("")
}

// TestStatus: plugins of CNI 1.1.0 say how they are, and are told which sandboxes there are.
func TestStatus(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.1.0")
	b.fail("STATUS", `{"cniVersion": "1.1.0", "code": 50, "msg": "my daemon is not up"}`)
	n := b.open()
	if err := n.Ready(); err == nil || err.Error() != `network "pods": my daemon is not up` {
		t.Error(err)
	}
	ns := newNS(t)
	if _, err := n.Setup(t.Context(), request("a", ns)); err == nil || !strings.Contains(err.Error(), "my daemon is not up") {
		t.Error(err)
	}
	run(t, n)
	b.mend("STATUS")
	until(t, "the plugin is well", func() bool { return n.Ready() == nil })
	for _, id := range []string{"a", "b"} {
		if _, err := n.Setup(t.Context(), request(id, ns)); err != nil {
			t.Fatal(err)
		}
	}
	b.fail("STATUS", `{"cniVersion": "1.1.0", "code": 51, "msg": "tired"}`)
	until(t, "the plugin is not well", func() bool { return n.Ready() != nil })
	b.fail("STATUS", `{"cniVersion": "1.1.0", "code": 4, "msg": "unknown CNI_COMMAND: STATUS"}`)
	until(t, "a plugin that knows no STATUS is taken to be well", func() bool { return n.Ready() == nil })
}

// TestGarbage: a process that starts takes down what no sandbox has, and tells the plugins what there is.
func TestGarbage(t *testing.T) {
	b := newBench(t)
	b.install()
	b.configure("1.1.0")
	n := b.open()
	ns := newNS(t)
	for _, id := range []string{"a", "b", "c"} {
		if _, err := n.Setup(t.Context(), request(id, ns)); err != nil {
			t.Fatal(err)
		}
	}
	b.calls()
	n = b.open()
	if got := n.Retain([]string{"a", "c", "unknown"}); !slices.Equal(got, []string{"unknown"}) {
		t.Errorf("%v", got)
	}
	run(t, n)
	until(t, "the plugin is told", func() bool { return strings.Contains(b.read("calls"), "GC ") })
	var calls []string
	for line := range strings.Lines(b.read("calls")) {
		if c := strings.Fields(line); c[0] == "DEL" || c[0] == "GC" {
			calls = append(calls, c[0]+" "+c[1])
		}
	}
	if !slices.Equal(calls, []string{"DEL id=b", "GC id="}) {
		t.Errorf("%q", calls)
	}
	var told struct {
		Valid []struct{ ContainerID, IfName string } `json:"cni.dev/valid-attachments"`
	}
	until(t, "the plugin has read it", func() bool { return json.Unmarshal([]byte(b.read("stdin-GC")), &told) == nil })
	if len(told.Valid) != 2 || told.Valid[0].IfName != "eth0" || told.Valid[0].ContainerID == "b" || told.Valid[1].ContainerID == "b" {
		t.Errorf("%+v", told)
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add("10.conflist", []byte(`{"cniVersion": "1.1.0", "cniVersions": ["1.0.0"], "name": "a", "disableGC": "true", "plugins": [{"type": "x", "capabilities": {"dns": true}}]}`))
	f.Add("10.conf", []byte(`{"cniVersion": "0.3.1", "name": "a", "type": "x"}`))
	f.Add("10.json", []byte(`{"name": 1}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		path := filepath.Join(dir, "x"+filepath.Ext(filepath.Base(name)))
		if strings.ContainsRune(path, 0) || os.WriteFile(path, text, 0o600) != nil {
			return
		}
		defer os.Remove(path)
		list, err := read(path)
		if err != nil {
			return
		}
		all, err := whole(list)
		if err != nil {
			t.Fatal(err)
		}
		capable(list, "dns")
		if r := (&record{ID: "a", Conf: all}); len(list.Plugins) > 0 {
			if again, _, err := r.call(); err != nil || len(again.Plugins) != len(list.Plugins) || again.Name != list.Name {
				t.Fatalf("%q became %q: %v", text, all, err)
			}
		}
	})
}

func FuzzPluginError(f *testing.F) {
	f.Add([]byte(`{"code": 1, "msg": "a", "details": "b"}`), []byte("x"))
	f.Add([]byte(`null`), []byte(""))
	f.Fuzz(func(t *testing.T, stdout, stderr []byte) {
		if pluginError(os.ErrInvalid, stdout, stderr).Error() == "" {
			t.Fatal("no words")
		}
	})
}
