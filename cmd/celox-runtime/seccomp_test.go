package main

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestHas32Bit(t *testing.T) {
	const elf32, elf64 = "\x7fELF\x01\x01", "\x7fELF\x02\x01"
	tests := []struct {
		name    string
		files   map[string]string
		program string
		want    bool
	}{
		{"native", map[string]string{"bin/app": elf64}, "app", false},
		{"own program", map[string]string{"bin/app": elf32}, "app", true},
		{"absolute", map[string]string{"opt/app": elf32}, "/opt/app", true},
		{"relative", map[string]string{"work/app": elf32}, "./app", true},
		{"script", map[string]string{"bin/app": "#!/bin/sh\n"}, "app", false},
		{"loader", map[string]string{"bin/app": elf64, "lib/ld-linux.so.2": elf32}, "app", true},
		{"missing", nil, "app", false},
		{"tiny", map[string]string{"bin/app": "x"}, "app", false},
	}
	for _, tt := range tests {
		root := t.TempDir()
		for name, content := range tt.files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		spec := &specs.Spec{Root: &specs.Root{Path: root}, Process: &specs.Process{Args: []string{tt.program}, Env: []string{"PATH=/sbin:/bin"}, Cwd: "/work"}}
		if got := has32Bit(spec); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestDefaultSeccompFollowsCapabilities(t *testing.T) {
	allowed := func(caps ...string) func(name string) bool {
		p := defaultSeccomp(&specs.Spec{Root: &specs.Root{Path: t.TempDir()}, Process: &specs.Process{
			Args: []string{"x"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps},
		}})
		if p.DefaultAction != specs.ActErrno || len(p.Architectures) == 0 {
			t.Errorf("%s: default action %s, architectures %v", runtime.GOARCH, p.DefaultAction, p.Architectures)
		}
		return func(name string) bool {
			return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
				return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name)
			})
		}
	}
	plain := allowed("CAP_CHOWN")
	for name, want := range map[string]bool{"read": true, "execve": true, "mount": false, "clone": false, "bpf": false, "reboot": false, "keyctl": false, "io_uring_setup": false} {
		if plain(name) != want {
			t.Errorf("%s without capabilities: %v", name, !want)
		}
	}
	admin := allowed("CAP_SYS_ADMIN", "CAP_SYS_BOOT")
	for _, name := range []string{"mount", "clone", "bpf", "reboot", "unshare"} {
		if !admin(name) {
			t.Errorf("%s with its capability is refused", name)
		}
	}
}
