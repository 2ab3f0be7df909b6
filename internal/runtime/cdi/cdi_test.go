package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func container() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Env: []string{"A=old", "PATH=/bin"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}, Mounts: []specs.Mount{{Destination: "/data", Source: "/old"}}}
}

// find knows /dev/toy only.
func find(host, at string) ([]specs.LinuxDevice, error) {
	if host != "/dev/toy" {
		return nil, errors.New("no such device " + host)
	}
	return []specs.LinuxDevice{{Path: at, Type: "c", Major: 1, Minor: 3}}, nil
}

const gpus = `{"cdiVersion": "0.6.0", "kind": "example.com/gpu", "containerEdits": {"env": ["ALL=1"], "additionalGids": [44]}, "devices": [
  {"name": "0", "containerEdits": {"env": ["A=zero"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/toy", "permissions": "rw"}]}},
  {"name": "1", "containerEdits": {"mounts": [{"hostPath": "/new", "containerPath": "/data", "options": ["ro"]}], "deviceNodes": [{"path": "/dev/gpu1", "type": "b", "major": 7, "minor": 2}]}},
  {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/x", "args": ["x", "y"], "timeout": 5}, {"hookName": "poststop", "path": "/z", "env": ["A=b"]}, {"hookName": "prestart", "path": "/p"}]}},
  {"name": "late", "containerEdits": {"hooks": [{"hookName": "afterwards", "path": "/x"}]}},
  {"name": "near", "containerEdits": {"hooks": [{"hookName": "createRuntime", "path": "x"}]}},
  {"name": "hasty", "containerEdits": {"hooks": [{"hookName": "startContainer", "path": "/x", "timeout": 0}]}},
  {"name": "net", "containerEdits": {"netDevices": [{}]}},
  {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/gone"}]}}]}`

func TestApply(t *testing.T) {
	low, high := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(low, "gpu.json", gpus)
	write(low, "nic.yaml", "cdiVersion: 0.5.0\nkind: example.com/nic\ndevices:\n- name: a\n  containerEdits: {env: [NIC=low]}\n")
	write(high, "nic.yaml", "cdiVersion: 0.5.0\nkind: example.com/nic\ndevices:\n- name: a\n  containerEdits: {env: [NIC=high]}\n")
	write(high, "broken.json", "{")
	write(high, "readme.txt", "{")
	dirs := []string{low, high, filepath.Join(high, "not there")}

	spec := container()
	if err := Apply(spec, dirs, []string{"example.com/gpu=0", "example.com/gpu=1", "example.com/nic=a"}, find); err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/bin", "ALL=1", "A=zero", "NIC=high"}; !slices.Equal(spec.Process.Env, want) {
		t.Errorf("environment %v", spec.Process.Env)
	}
	if len(spec.Mounts) != 1 || spec.Mounts[0].Source != "/new" || !slices.Equal(spec.Mounts[0].Options, []string{"rbind", "ro"}) {
		t.Errorf("mounts %v", spec.Mounts)
	}
	if !slices.Equal(spec.Process.User.AdditionalGids, []uint32{44}) {
		t.Errorf("groups %v", spec.Process.User.AdditionalGids)
	}
	d := spec.Linux.Devices
	if len(d) != 2 || d[0].Path != "/dev/gpu0" || d[0].Major != 1 || d[1].Path != "/dev/gpu1" || d[1].Major != 7 {
		t.Errorf("devices %v", d)
	}
	rules := spec.Linux.Resources.Devices
	if len(rules) != 2 || rules[0].Access != "rw" || !rules[0].Allow || rules[1].Access != "rwm" || rules[1].Type != "b" {
		t.Errorf("rules %v", rules)
	}

	for _, tt := range []struct{ name, want string }{
		{"example.com/gpu=7", "unresolvable CDI devices example.com/gpu=7"},
		{"example.com/gpu", "unresolvable CDI devices example.com/gpu"},
		{"example.com/gpu=7", "broken.json"},
		{"example.com/gpu=late", `invalid hook name "afterwards"`},
		{"example.com/gpu=near", `path "x" of hook createRuntime is not absolute`},
		{"example.com/gpu=hasty", "timeout 0 of hook startContainer is not positive"},
		{"example.com/gpu=net", "net devices and intelRdt are not supported"},
		{"example.com/gpu=gone", "no such device /dev/gone"},
	} {
		spec := container()
		err := Apply(spec, dirs, []string{"example.com/nic=a", tt.name}, find)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if len(spec.Process.Env) != 2 {
			t.Errorf("%s: the container was changed: %v", tt.name, spec.Process.Env)
		}
	}
	spec = container()
	if err := Apply(spec, dirs, []string{"example.com/gpu=hooked"}, find); err != nil || spec.Hooks == nil {
		t.Fatal(err)
	}
	if h := spec.Hooks.CreateContainer; len(h) != 1 || h[0].Path != "/x" || !slices.Equal(h[0].Args, []string{"x", "y"}) || *h[0].Timeout != 5 {
		t.Errorf("hooks %+v", h)
	}
	if h := spec.Hooks; len(h.Poststop) != 1 || h.Poststop[0].Env[0] != "A=b" || len(h.CreateRuntime) != 0 || len(h.Poststart) != 0 {
		t.Errorf("hooks %+v", h)
	}
	if err := Apply(container(), dirs, nil, find); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(gpus))
	f.Add([]byte("kind: a/b\ncdiVersion: 1.0.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parse(data)
		if err == nil && (got.Version == "" || !strings.Contains(got.Kind, "/")) {
			t.Errorf("%+v", got)
		}
	})
}
