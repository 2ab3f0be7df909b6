package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"sigs.k8s.io/yaml"
)

// Dirs is where files are looked for, as the specification has it; what is in a later one counts more.
func Dirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// maxFile bounds a file, in bytes.
const maxFile = 4 << 20

// file is what a driver writes.
type file struct {
	Version        string   `json:"cdiVersion"`
	Kind           string   `json:"kind"` // vendor and class, "vendor.example.com/gpu"
	Devices        []device `json:"devices"`
	ContainerEdits edits    `json:"containerEdits"` // for whoever gets any of the devices
}

type device struct {
	Name           string `json:"name"`
	ContainerEdits edits  `json:"containerEdits"`
}

// edits is what a container gets.
type edits struct {
	Env            []string          `json:"env,omitempty"`
	DeviceNodes    []deviceNode      `json:"deviceNodes,omitempty"`
	NetDevices     []json.RawMessage `json:"netDevices,omitempty"`
	Hooks          []hook            `json:"hooks,omitempty"`
	Mounts         []mount           `json:"mounts,omitempty"`
	IntelRdt       json.RawMessage   `json:"intelRdt,omitempty"`
	AdditionalGIDs []uint32          `json:"additionalGids,omitempty"`
}

type deviceNode struct {
	Path        string       `json:"path"`
	HostPath    string       `json:"hostPath,omitempty"`
	Type        string       `json:"type,omitempty"`
	Major       int64        `json:"major,omitempty"`
	Minor       int64        `json:"minor,omitempty"`
	FileMode    *os.FileMode `json:"fileMode,omitempty"`
	Permissions string       `json:"permissions,omitempty"`
	UID         *uint32      `json:"uid,omitempty"`
	GID         *uint32      `json:"gid,omitempty"`
}

type mount struct {
	HostPath      string   `json:"hostPath"`
	ContainerPath string   `json:"containerPath"`
	Options       []string `json:"options,omitempty"`
	Type          string   `json:"type,omitempty"`
}

// hook is a program that runs at a moment of a container's life.
type hook struct {
	Name    string   `json:"hookName"`
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"`
	Timeout *int     `json:"timeout,omitempty"` // seconds
}

// Finder describes the device file at a path of the machine, as it is to appear at another.
type Finder func(hostPath, containerPath string) ([]specs.LinuxDevice, error)

// Apply gives a container the devices with these names ("vendor.example.com/gpu=gpu0"). It changes nothing if it fails.
func Apply(spec *specs.Spec, dirs, names []string, find Finder) error {
	if len(names) == 0 {
		return nil
	}
	files, bad := load(dirs)
	var all []edits
	var shared []*file // whose common edits were taken
	var missing []string
	for _, name := range names {
		kind, dev, ok := strings.Cut(name, "=")
		f, d := lookup(files, kind, dev)
		if !ok || d == nil {
			missing = append(missing, name)
			continue
		}
		if !slices.Contains(shared, f) {
			shared = append(shared, f)
			all = append(all, f.ContainerEdits)
		}
		all = append(all, d.ContainerEdits)
	}
	if len(missing) > 0 {
		return errors.Join(append([]error{fmt.Errorf("CDI device injection failed: unresolvable CDI devices %s", strings.Join(missing, ", "))}, bad...)...)
	}
	var nodes []specs.LinuxDevice
	var allowed []specs.LinuxDeviceCgroup
	for i := range all {
		e := &all[i]
		if len(e.NetDevices) > 0 || len(e.IntelRdt) > 0 {
			return fmt.Errorf("CDI device injection failed: net devices and intelRdt are not supported (%s)", strings.Join(names, ", "))
		}
		for k := range e.Hooks {
			if err := e.Hooks[k].check(); err != nil {
				return fmt.Errorf("CDI device injection failed: %w", err)
			}
		}
		for k := range e.DeviceNodes {
			n, rules, err := e.DeviceNodes[k].resolve(find)
			if err != nil {
				return fmt.Errorf("CDI device injection failed: %w", err)
			}
			nodes, allowed = append(nodes, n...), append(allowed, rules...)
		}
	}
	for i := range all {
		all[i].apply(spec)
	}
	for _, n := range nodes {
		spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == n.Path })
		spec.Linux.Devices = append(spec.Linux.Devices, n)
	}
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, allowed...)
	return nil
}

// load reads all files, those that count most first. What can't be read is named if a device is missing.
func load(dirs []string) (files []*file, bad []error) {
	for _, dir := range slices.Backward(dirs) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, err)
		}
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".json", ".yaml", ".yml":
			default:
				continue
			}
			f, err := read(filepath.Join(dir, e.Name()))
			if err != nil {
				bad = append(bad, err)
				continue
			}
			files = append(files, f)
		}
	}
	return files, bad
}

func read(path string) (*file, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// parse reads JSON or YAML.
func parse(data []byte) (*file, error) {
	var f file
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	vendor, class, ok := strings.Cut(f.Kind, "/")
	switch {
	case f.Version == "":
		return nil, errors.New("no cdiVersion")
	case !ok || vendor == "" || class == "":
		return nil, fmt.Errorf("kind %q is not <vendor>/<class>", f.Kind)
	}
	for i := range f.Devices {
		if f.Devices[i].Name == "" {
			return nil, errors.New("a device has no name")
		}
	}
	return &f, nil
}

func lookup(files []*file, kind, name string) (*file, *device) {
	for _, f := range files {
		if f.Kind != kind {
			continue
		}
		for i := range f.Devices {
			if f.Devices[i].Name == name {
				return f, &f.Devices[i]
			}
		}
	}
	return nil, nil
}

// resolve completes a device file's description by what is on the machine.
func (d *deviceNode) resolve(find Finder) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	host := d.HostPath
	if host == "" {
		host = d.Path
	}
	dev := specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: d.FileMode, UID: d.UID, GID: d.GID}
	if d.Type == "" || d.Major == 0 && d.Minor == 0 && d.Type != "p" {
		found, err := find(host, d.Path)
		if err != nil {
			return nil, nil, err
		}
		if len(found) != 1 {
			return nil, nil, fmt.Errorf("%s is not a device", host)
		}
		dev = found[0]
		if d.FileMode != nil {
			dev.FileMode = d.FileMode
		}
		if d.UID != nil {
			dev.UID = d.UID
		}
		if d.GID != nil {
			dev.GID = d.GID
		}
	}
	if dev.Type == "p" {
		return []specs.LinuxDevice{dev}, nil, nil // a pipe is nobody's to allow
	}
	access := d.Permissions
	if access == "" {
		access = "rwm"
	}
	return []specs.LinuxDevice{dev}, []specs.LinuxDeviceCgroup{{Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: access}}, nil
}

// apply gives a container all but device files.
func (e *edits) apply(spec *specs.Spec) {
	for _, env := range e.Env {
		name, _, ok := strings.Cut(env, "=")
		if !ok || name == "" {
			continue
		}
		spec.Process.Env = slices.DeleteFunc(spec.Process.Env, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		spec.Process.Env = append(spec.Process.Env, env)
	}
	for _, m := range e.Mounts {
		kind := m.Type
		if kind == "" {
			kind = "bind"
		}
		options := m.Options
		if kind == "bind" && !slices.Contains(options, "bind") && !slices.Contains(options, "rbind") {
			options = append([]string{"rbind"}, options...)
		}
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(o specs.Mount) bool { return filepath.Clean(o.Destination) == filepath.Clean(m.ContainerPath) })
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: filepath.Clean(m.ContainerPath), Type: kind, Source: m.HostPath, Options: options})
	}
	for i := range e.Hooks {
		if spec.Hooks == nil {
			spec.Hooks = &specs.Hooks{}
		}
		e.Hooks[i].add(spec.Hooks)
	}
	for _, gid := range e.AdditionalGIDs {
		if gid != 0 && !slices.Contains(spec.Process.User.AdditionalGids, gid) {
			spec.Process.User.AdditionalGids = append(spec.Process.User.AdditionalGids, gid)
		}
	}
}

// list is where a hook belongs, nil if there is no such moment.
func (h *hook) list(hooks *specs.Hooks) *[]specs.Hook {
	switch h.Name {
	case "prestart":
		return &hooks.Prestart //nolint:staticcheck // drivers still use it
	case "createRuntime":
		return &hooks.CreateRuntime
	case "createContainer":
		return &hooks.CreateContainer
	case "startContainer":
		return &hooks.StartContainer
	case "poststart":
		return &hooks.Poststart
	case "poststop":
		return &hooks.Poststop
	}
	return nil
}

func (h *hook) check() error {
	switch {
	case h.list(&specs.Hooks{}) == nil:
		return fmt.Errorf("invalid hook name %q", h.Name)
	case !filepath.IsAbs(h.Path):
		return fmt.Errorf("path %q of hook %s is not absolute", h.Path, h.Name)
	case h.Timeout != nil && *h.Timeout <= 0:
		return fmt.Errorf("timeout %d of hook %s is not positive", *h.Timeout, h.Name)
	}
	return nil
}

// add is for hooks that were checked.
func (h *hook) add(hooks *specs.Hooks) {
	l := h.list(hooks)
	*l = append(*l, specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
}
