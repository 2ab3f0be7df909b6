package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestOneNodeInANetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("nodes are root's")
	}
	name := fmt.Sprintf("@celox-test-%d", os.Getpid())
	release, err := claimNetwork(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claimNetwork(name); !errors.Is(err, errNetworkTaken) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("a second claim: %v", err)
	}
	release()
	release, err = claimNetwork(name)
	if err != nil {
		t.Fatalf("after the first was given back: %v", err)
	}
	release()
}
