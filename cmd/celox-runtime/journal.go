package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/celox/celox/internal/atomicfile"
	"github.com/celox/celox/internal/runtime/holder"
)

// writeState puts the record of a task on the disk in one step: a reader sees
// the old one or the new one, whenever we are killed. It is not synced: after a
// crash of the machine no task is alive anyway.
func writeState(layout holder.Layout, st holder.State) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(layout.State(st.ID), data, 0o600, atomicfile.Unsynced); err != nil {
		return fmt.Errorf("journal of task %s: %w", st.ID, err)
	}
	return nil
}

func readState(layout holder.Layout, id string) (holder.State, error) {
	var st holder.State
	data, err := os.ReadFile(layout.State(id))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("journal of task %s: %w", id, err)
	}
	if st.ID != id {
		return st, fmt.Errorf("journal of task %s names %q", id, st.ID)
	}
	return st, nil
}

// listTasks names the tasks that have a directory.
func listTasks(layout holder.Layout) ([]string, error) {
	entries, err := os.ReadDir(layout.Tasks())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// validID keeps a task's id from naming anything but its own directory.
func validID(id string) bool {
	if id == "" || len(id) > 128 || id[0] == '.' || filepath.Base(id) != id {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) < 0
}

func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// stillRuns tells whether the process of a record lives and is the same one.
func stillRuns(st holder.State, boot string) bool {
	if st.Pid <= 0 || st.BootID != boot {
		return false
	}
	now, err := holder.ReadProcStat(st.Pid)
	return err == nil && now.StartTicks == st.StartTicks
}
