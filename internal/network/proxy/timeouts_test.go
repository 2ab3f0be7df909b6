package proxy

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celox/celox/internal/network/networktest"
)

// TestTimeouts: connections are remembered as long as kube-proxy would have it, and the settings are what they were afterwards, but for those that somebody
// else has changed.
func TestTimeouts(t *testing.T) {
	const closing, standing = "nf_conntrack_tcp_timeout_close_wait", "nf_conntrack_tcp_timeout_established"
	m := networktest.NewMachine(t, "node")
	dir := filepath.Join(t.TempDir(), "network")
	set := func(name, value string) {
		t.Helper()
		m.Must(func() error { return os.WriteFile(filepath.Join(trackingDir, name), []byte(value), 0) })
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		have := map[string]string{}
		m.Must(func() error {
			for name := range want {
				data, err := os.ReadFile(filepath.Join(trackingDir, name))
				if err != nil {
					return err
				}
				have[name] = strings.TrimSpace(string(data))
			}
			return nil
		})
		if !maps.Equal(have, want) {
			t.Errorf("%s: %v, want %v", when, have, want)
		}
	}
	start := func() { t.Helper(); m.Must(func() error { return SetTimeouts(dir) }) }
	reset := func() { t.Helper(); m.Must(func() error { return RestoreTimeouts(dir) }) }
	set(closing, "60")
	set(standing, "432000")

	start()
	expect("after a start", map[string]string{closing: "3600", standing: "86400"})
	start()
	expect("after another", map[string]string{closing: "3600", standing: "86400"})
	reset()
	expect("after a reset", map[string]string{closing: "60", standing: "432000"})
	reset()
	expect("after another", map[string]string{closing: "60", standing: "432000"})

	start()
	set(closing, "120")
	reset()
	expect("changed by somebody else", map[string]string{closing: "120", standing: "432000"})
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}
