package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// emptyDatabase is how large a database file is, in bytes, before the first transaction: its four first pages.
const emptyDatabase = 4 * 4096

// lockDir makes sure that this process alone has the directory (etcd itself would wait for the other to go), and that etcd can begin
// with what is there.
func lockDir(dir string, log *slog.Logger) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "celox.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err == nil {
		err = checkMember(filepath.Join(dir, "member"), log)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("etcd: %s: %w", dir, err)
	}
	return lock, nil
}

// checkMember removes a member that was killed before its first start was complete. etcd would take it for one that has been told of a
// cluster, find none, and wait for ever. Such a member never accepted anything: even its own membership is not in its log.
func checkMember(member string, log *slog.Logger) error {
	if _, err := os.Stat(member); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	db := filepath.Join(member, "snap", "db")
	applied, err := appliedIndex(db)
	if err != nil || applied > 0 {
		return err
	}
	if committed, err := hasCommitted(filepath.Join(member, "wal")); err != nil || committed {
		return nil // what is wrong with the log, etcd says better
	}
	log.Info("etcd: beginning anew: the first start was broken off before anything was stored", "directory", member)
	return os.RemoveAll(member)
}

// appliedIndex is the index of the last log entry that is in the database, 0 if there is none or no database. It fails if somebody
// else's etcd has the database open, for which etcd would wait, or if it cannot be opened at all, at which etcd would panic.
func appliedIndex(path string) (uint64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Millisecond})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return 0, ErrInUse
	case err != nil && info.Size() <= emptyDatabase:
		return 0, nil // it was being made
	case err != nil:
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	var applied uint64
	err = db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(schema.Meta.Name()); meta != nil {
			if v := meta.Get(schema.MetaConsistentIndexKeyName); len(v) == 8 {
				applied = binary.BigEndian.Uint64(v)
			}
		}
		return nil
	})
	return applied, errors.Join(err, db.Close())
}

// hasCommitted says whether there is a log with anything in it that was agreed on.
func hasCommitted(dir string) (bool, error) {
	if !wal.Exist(dir) {
		return false, nil
	}
	silent := zap.NewNop()
	snapshots, err := wal.ValidSnapshotEntries(silent, dir)
	if err != nil {
		return false, err
	}
	for _, s := range snapshots {
		if s.GetIndex() > 0 {
			return true, nil
		}
	}
	w, err := wal.OpenForRead(silent, dir, &walpb.Snapshot{})
	if err != nil {
		return false, err
	}
	_, state, _, err := w.ReadAll() // it closes the files; there is nothing else to close in a log that is only read
	return state.GetCommit() > 0, err
}
