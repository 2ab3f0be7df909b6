package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celox/celox/internal/network/shortcut"
)

// TestLiberal: a setting of connection tracking is as it was when nobody needs it any more, unless somebody else has changed it.
func TestLiberal(t *testing.T) {
	host, _ := newHost(t)
	is := func() string {
		t.Helper()
		var data []byte
		if err := within(host, func() (err error) {
			data, err = os.ReadFile(tcpLiberal)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	set := func(value string) {
		t.Helper()
		if err := within(host, func() error { return setSysctl(tcpLiberal, value) }); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, want string) {
		t.Helper()
		if got := is(); got != want {
			t.Errorf("%s: it is %s, want %s", what, got, want)
		}
	}
	dir := filepath.Join(t.TempDir(), "state")
	live := func(short bool) {
		t.Helper()
		cfg := Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: dir}
		if short {
			var s *shortcut.Shortcut
			if err := within(host, func() (err error) {
				s, err = shortcut.New()
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			cfg.Shortcut = s
		}
		if err := start(t, host, cfg).Close(); err != nil {
			t.Fatal(err)
		}
	}
	reset := func() {
		t.Helper()
		if err := within(host, func() error { return Reset(t.Context(), Config{PodCIDRs: prefixes(), StateDir: dir}) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, before := range []string{"0", "1"} {
		set(before)
		for range 2 { // the second life finds what the first one made
			live(true)
			expect("with a shortcut", "1")
		}
		live(false)
		expect("after the shortcut", before)
		live(true)
		reset()
		expect("after a reset", before)
	}
	set("0")
	live(true)
	set("0") // by somebody else
	reset()
	expect("what somebody else has changed", "0")
}
