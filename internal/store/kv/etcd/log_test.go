package etcd

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestDatabaseComplaints: what the database says while a call fails is not logged: the call tells it. What etcd itself says is.
func TestDatabaseComplaints(t *testing.T) {
	var said bytes.Buffer
	log := newLogger(slog.New(slog.NewTextHandler(&said, nil)), nil).zap
	log.Named(database).Sugar().Errorf("writeAt failed: %v", errors.New("no space"))
	if said.Len() > 0 {
		t.Errorf("the database: %s", said.String())
	}
	log.Named("raft").Warn("slow")
	if !strings.Contains(said.String(), "etcd: slow") {
		t.Errorf("etcd: %q", said.String())
	}
}
