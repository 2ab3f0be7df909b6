package vm

import (
	"strings"
	"testing"
)

// TestWireGuard runs the tests of the mesh on a kernel that can encrypt.
func TestWireGuard(t *testing.T) {
	out := sh(t, "/root/mesh.test -test.run '^TestEncryptedWay$' -test.v 2>&1")
	if !strings.Contains(out, "--- PASS: TestEncryptedWay") {
		t.Errorf("it says:\n%s", out)
	}
}
