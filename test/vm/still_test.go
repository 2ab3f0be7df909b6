package vm

import (
	"bufio"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestPulse sleeps in virtual time.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c console
		time.Sleep(time.Hour)
		if c.silent(time.Now()) {
			t.Error("a machine that boots is silent")
		}
		for _, p := range []string{"a\x01b", "\x01", "c"} {
			if n, err := c.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("%q: wrote %d, %v", p, n, err)
			}
		}
		if got := c.String(); got != "abc" {
			t.Errorf("the console says %q", got)
		}
		time.Sleep(stillAfter)
		if c.silent(time.Now()) {
			t.Error("silent too early")
		}
		_, _ = c.Write([]byte("words, but no pulse"))
		time.Sleep(time.Second)
		if !c.silent(time.Now()) {
			t.Error("not silent without a pulse")
		}
	})
}

// TestStandsStill: a machine without an answer stands still when its pulse has stopped, and is asked no more; one that beats only has a script that hangs.
func TestStandsStill(t *testing.T) {
	for _, beats := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			defer theirs.Close()
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the pipe
			m := &Machine{serie: ours, lines: bufio.NewReader(ours)}
			_, _ = m.console.Write([]byte{1})
			if beats {
				time.AfterFunc(shPatience-time.Second, func() { _, _ = m.console.Write([]byte{1}) })
			}
			_, err := m.Sh("true")
			if err == nil || errors.Is(err, errStill) == beats {
				t.Errorf("beats %t: %v", beats, err)
			}
			asked := time.Now()
			if _, err := m.Sh("true"); !beats && (!errors.Is(err, errStill) || time.Since(asked) != 0) {
				t.Errorf("asked again: %v after %s", err, time.Since(asked))
			}
		})
	}
}
