package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/atomicfile"
)

// What a data directory holds, by paths relative to it.
const (
	// AdminKubeconfig is the administrator's kubeconfig.
	AdminKubeconfig = "admin.kubeconfig"
	// ImagesDir holds the images and the containers' root file systems.
	ImagesDir = "images"
	pkiDir    = "pki"
	etcdDir   = "etcd"
	// eventsFile is the journal of events, beside the embedded etcd.
	eventsFile = "events.journal"
	// EtcdSocket is where the embedded etcd answers etcdctl, for root.
	etcdSocket      = "run/etcd.sock"
	runtimeDir      = "runtime"
	binDir          = "bin"
	networkDir      = "network"
	cniDir          = "cni"
	agentDir        = "agent"
	nodeDir         = "node"
	pluginDir       = "plugins_registry" // below nodeDir
	devicePluginDir = "device-plugins"   // in nodeDir: device plugins' sockets, and that which they register at
	podResourcesDir = "pod-resources"    // in nodeDir: who asks which pod has which devices
	podLogDir       = "log/pods"
	lockFile        = "lock"
	markFile        = "celox"
)

// markText is what the mark begins with, in every version. The name says nothing: next to a program, or above the default directory, there
// is something else that is called so.
const markText = "This directory belongs to a Celox cluster."

// clusterID is a short name for what the cluster of a data directory makes elsewhere on the machine. It is a function of the path, so that
// it can be found again when the directory is broken.
func clusterID(dataDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	return "celox-" + hex.EncodeToString(sum[:4])
}

// cgroupRoot is the parent of all cgroups of the cluster.
func cgroupRoot(dataDir string) string { return "/" + clusterID(dataDir) }

// lock takes a data directory for this process, for as long as it lives; release gives it back.
func lock(dataDir string) (release func(), err error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	// Containers of other users reach their files below it.
	if err := os.Chmod(dataDir, 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dataDir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(path) // who it is only makes the message better
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by a running celox (pid %s): stop it, or give another --data-dir", dataDir, strings.TrimSpace(string(owner)))
		}
		return nil, fmt.Errorf("data directory %s: lock: %w", dataDir, err)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("data directory %s: %w", dataDir, err)
	}
	return func() { _ = f.Close() }, nil // closing is unlocking
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// checkOwn refuses a directory that holds what no cluster would put there: reset would remove that, too.
func checkOwn(dataDir string) error {
	if marked(dataDir) {
		return nil
	}
	entries, err := os.ReadDir(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	// What a start that was broken off, or somebody who restores a backup, leaves there; and what an empty file system has.
	known := []string{lockFile, pkiDir, etcdDir, eventsFile, ImagesDir, AdminKubeconfig, "lost+found"}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) && !strings.HasPrefix(e.Name(), "."+markFile) {
			return fmt.Errorf("%s holds other things (%s) and cannot be a data directory: give another --data-dir", dataDir, e.Name())
		}
	}
	return nil
}

// Mark makes a data directory, if it is not there, and says in it that it is a cluster's, so that reset never removes anything else.
func Mark(dataDir string) error {
	if err := os.MkdirAll(dataDir, 0o711); err != nil { // containers of other users reach their files below it
		return fmt.Errorf("data directory: %w", err)
	}
	if err := checkOwn(dataDir); err != nil {
		return err
	}
	if marked(dataDir) {
		return nil
	}
	text := markText + " `celox reset --data-dir` removes it with all that the cluster made.\n"
	if err := writeFile(filepath.Join(dataDir, markFile), []byte(text), 0o600); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// marked says whether a data directory is a cluster's already.
func marked(dataDir string) bool {
	path := filepath.Join(dataDir, markFile)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return errors.Is(err, fs.ErrPermission) // somebody else's cluster, whose directory only root can change
	}
	defer func() { _ = f.Close() }() // read only
	text := make([]byte, len(markText))
	_, err = io.ReadFull(f, text)
	return err == nil && string(text) == markText
}

// unmark takes back what Mark and lock made, where nothing has come to it.
func unmark(dataDir string) {
	_ = os.Remove(filepath.Join(dataDir, agentDir)) // if it is empty
	entries, err := os.ReadDir(dataDir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != markFile && e.Name() != lockFile }) {
		return
	}
	for _, name := range []string{markFile, lockFile} {
		_ = os.Remove(filepath.Join(dataDir, name)) // what stays is as harmless as before
	}
	_ = os.Remove(dataDir)
}

// writeFile replaces a file as a whole: readers see the old or the new one, also after a crash.
func writeFile(path string, data []byte, mode os.FileMode) error {
	return atomicfile.Write(path, data, mode, atomicfile.Synced)
}
