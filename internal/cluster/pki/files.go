package pki

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/celox/celox/internal/atomicfile"
)

// file is something to write below the directory.
type file struct {
	name string
	data []byte
}

// writeFiles puts files in place, each as a whole or not at all, and durably. The order is kept: after a crash, a certificate is
// there only if its key is. The contents are synced side by side, because a journal commit serves them all.
func writeFiles(dir string, files []file) error {
	if len(files) == 0 {
		return nil
	}
	made := make([]*atomicfile.File, len(files))
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() {
			if made[i], errs[i] = atomicfile.Create(filepath.Join(dir, f.name), 0o600); errs[i] != nil {
				return
			}
			_, err := made[i].Write(f.data)
			errs[i] = errors.Join(err, made[i].Sync())
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	for _, f := range made {
		if f == nil {
			continue
		}
		if err == nil {
			err = f.Place(atomicfile.Unsynced) // it is synced already
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return err
	}
	if err := atomicfile.SyncDir(dir); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
