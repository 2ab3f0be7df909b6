package sysctl_test

import (
	"strings"
	"testing"

	"github.com/celox/celox/internal/node/sysctl"
)

func TestAllowed(t *testing.T) {
	for _, tt := range []struct {
		patterns, name string
		want           sysctl.Namespace
	}{
		{"", "net.ipv4.tcp_rmem", sysctl.Net},
		{"", "net/ipv4/tcp_rmem", sysctl.Net},
		{"", "kernel.shm_rmid_forced", sysctl.IPC},
		{"", "kernel.shmmax", ""},
		{"", "net.core.somaxconn", ""},
		{"net.*", "net.core.somaxconn", sysctl.Net},
		{"net/core/*", "net/core/somaxconn", sysctl.Net},
		{"net.core.*", "net.ipv4.tcp_mem", ""},
		{"net.core.somaxconn", "net.core.somaxconn", sysctl.Net},
		{"net.core.somaxconn", "net.core.somaxconn2", ""},
		{"kernel.msg*,kernel.sem", "kernel.msgmax", sysctl.IPC},
		{"kernel.msg*,kernel.sem", "kernel.sem", sysctl.IPC},
		{"kernel.msg*,kernel.sem", "kernel.semi", ""},
		{"fs.mqueue.*", "fs.mqueue.msg_max", sysctl.IPC},
		{"net.*", "net/../kernel/panic", ""},
		{"net.*", "net.ipv4.conf.eth0/1.forwarding", sysctl.Net},
	} {
		var list []string
		if tt.patterns != "" {
			list = strings.Split(tt.patterns, ",")
		}
		a, err := sysctl.Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := a.Namespace(tt.name); got != tt.want || ok != (tt.want != "") {
			t.Errorf("with %q %s belongs to %q, %t, want %q", tt.patterns, tt.name, got, ok, tt.want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, p := range []string{"*", "kernel.*", "kernel.panic", "net", "n*", "net.*.x", "vm.swappiness", "net/../vm/*", ""} {
		if a, err := sysctl.Parse([]string{p}); err == nil {
			t.Errorf("%q gives pods %+v", p, a)
		}
	}
}

// FuzzAllowed: whatever the pattern and the name, pods get nothing that is the machine's.
func FuzzAllowed(f *testing.F) {
	f.Add("net.*", "net.core.somaxconn")
	f.Add("kernel.sh*", "kernel/shmmax")
	f.Add("kernel.msg*", "kernel.msg/../panic")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		a, err := sysctl.Parse([]string{pattern})
		if err != nil {
			return
		}
		if _, ok := a.Namespace(name); !ok {
			return
		}
		whole := sysctl.Name(name)
		if strings.Contains(whole, "..") || strings.Contains(whole, "//") {
			t.Fatalf("%q leaves its place", name)
		}
		for _, own := range []string{"net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."} {
			if strings.HasPrefix(whole, own) {
				return
			}
		}
		t.Fatalf("%q allows %q", pattern, name)
	})
}
