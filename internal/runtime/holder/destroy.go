package holder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/cgroupfs"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// destroyRetry and destroyTries bound the wait for killed processes.
	destroyRetry = 5 * time.Millisecond
	destroyTries = 1000
	// destroyPatience is how long the kernel may take to end what it was told to kill.
	destroyPatience = 2 * time.Second
)

// Destroy kills every task of a runtime directory, ends its holder if one
// lives, and removes what they left: journal records and cgroups. It works as
// well when the holder is dead.
func Destroy(ctx context.Context, layout Layout) error {
	err := shutdown(ctx, layout)
	entries, rerr := os.ReadDir(layout.Tasks())
	if rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	for _, e := range entries {
		err = errors.Join(err, destroyTask(ctx, layout, e.Name()))
	}
	for _, path := range []string{layout.Tasks(), layout.Libcontainer(), layout.Socket(), layout.Lock(), layout.Log()} {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

func destroyTask(ctx context.Context, layout Layout, id string) error {
	data, err := os.ReadFile(layout.State(id))
	if err != nil {
		return nil // nothing was started under this name
	}
	var st State
	if err := json.Unmarshal(data, &st); err != nil {
		return nil //nolint:nilerr // half a record: the task never ran
	}
	if st.Phase == PhaseExited || !filepath.IsAbs(st.Cgroup) {
		return nil
	}
	if now, err := ReadProcStat(st.KeeperPid); st.KeeperPid > 1 && err == nil && now.StartTicks == st.KeeperTicks {
		_ = unix.Kill(st.KeeperPid, unix.SIGKILL)
	}
	if err := KillCgroup(ctx, st.Cgroup); err != nil {
		return fmt.Errorf("task %s: %w", id, err)
	}
	return RemoveCgroup(ctx, st.Cgroup)
}

// unified tells whether the machine has the one hierarchy of version 2.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchies are the mount points of the cgroup file systems.
func hierarchies() []string {
	if unified() {
		return []string{cgroupRoot}
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() { // not the links to joint controllers
			all = append(all, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return all
}

// cgroupDirs lists a cgroup and those below it in every hierarchy, children
// first.
func cgroupDirs(path string) []string {
	var all []string
	for _, h := range hierarchies() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(h, path), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			all = append(all, dirs[i])
		}
	}
	return all
}

// KillCgroup kills every process in a cgroup, an absolute path inside each
// hierarchy, and below, and returns when none is left.
func KillCgroup(ctx context.Context, path string) error {
	if filepath.Clean(path) == "/" {
		return errors.New("will not kill the root cgroup")
	}
	if dir := filepath.Join(cgroupRoot, path); unified() && cgroupfs.Kill(dir) == nil && cgroupfs.AwaitEmpty(dir, destroyPatience) == cgroupfs.Empty {
		return nil
	}
	for range destroyTries {
		found := false
		for _, dir := range cgroupDirs(path) {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for field := range bytes.FieldsSeq(data) {
				if pid, err := strconv.Atoi(string(field)); err == nil && pid > 1 {
					found = true
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		if !found {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(destroyRetry):
		}
	}
	return fmt.Errorf("processes in cgroup %s do not die", path)
}

// RemoveCgroup removes a cgroup and those below it from every hierarchy. It must
// be empty of processes; it is no error if it is not there.
func RemoveCgroup(ctx context.Context, path string) error {
	if filepath.Clean(path) == "/" {
		return errors.New("will not remove the root cgroup")
	}
	var last error
	for range destroyTries {
		last = nil
		for _, dir := range cgroupDirs(path) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = &os.PathError{Op: "rmdir", Path: dir, Err: err}
			}
		}
		if last == nil || !errors.Is(last, unix.EBUSY) {
			return last
		}
		select { // the kernel lets go of dead processes a little later
		case <-ctx.Done():
			return last
		case <-time.After(destroyRetry):
		}
	}
	return last
}

// TrimCgroup removes a cgroup from every hierarchy where nothing is left in it.
func TrimCgroup(path string) {
	if filepath.Clean(path) == "/" {
		return
	}
	for _, h := range hierarchies() {
		_ = unix.Rmdir(filepath.Join(h, path))
	}
}
