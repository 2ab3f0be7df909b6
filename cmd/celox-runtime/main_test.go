package main

import (
	"io"
	"os"
	"syscall"
	"testing"
)

// TestAnnouncing: after a handover the descriptor of whoever starts us is somebody else's, such as the pipe of a container.
func TestAnnouncing(t *testing.T) {
	for _, c := range []struct {
		name, handover string
		pipe, heard    bool
	}{
		{"started", "", true, true},
		{"handover", "5", true, false},
		{"no pipe", "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(handoverEnv, c.handover)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			of := w
			if !c.pipe {
				if of, err = os.Open(t.TempDir()); err != nil {
					t.Fatal(err)
				}
				defer of.Close()
			}
			fd, err := syscall.Dup(int(of.Fd())) // announce closes it
			if err != nil {
				t.Fatal(err)
			}
			to := announcing(fd)
			_ = os.Unsetenv(handoverEnv) // as taking the handover does
			announce(to, "ready")
			if c.heard != (to != nil) {
				t.Errorf("the pipe is %v", to)
			}
			if to == nil {
				if err := syscall.Close(fd); err != nil {
					t.Errorf("the descriptor is gone: %v", err)
				}
				if _, err := w.WriteString("of the container"); err != nil {
					t.Error(err)
				}
			}
			_ = w.Close()
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]string{true: "ready", false: "of the container"}[c.heard]; string(text) != want {
				t.Errorf("read %q, want %q", text, want)
			}
		})
	}
}
