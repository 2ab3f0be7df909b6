package holder

import "path/filepath"

// Layout names the files of a runtime directory that celox and the holder
// share. All of it is volatile: it means nothing after a reboot, so it may be
// a tmpfs.
type Layout string

// Socket is where the holder listens.
func (l Layout) Socket() string { return filepath.Join(string(l), "holder.sock") }

// Lock is locked by the living holder, so that there is never a second.
func (l Layout) Lock() string { return filepath.Join(string(l), "holder.lock") }

// Log is where the holder writes its own messages.
func (l Layout) Log() string { return filepath.Join(string(l), "holder.log") }

// Tasks holds one directory per task: its journal record and its FIFOs.
func (l Layout) Tasks() string { return filepath.Join(string(l), "tasks") }

// Task is the directory of one task.
func (l Layout) Task(id string) string { return filepath.Join(l.Tasks(), id) }

// State is the journal record of a task: a State as JSON.
func (l Layout) State(id string) string { return filepath.Join(l.Task(id), "state.json") }

// Libcontainer is the state directory of the container library.
func (l Layout) Libcontainer() string { return filepath.Join(string(l), "libcontainer") }
