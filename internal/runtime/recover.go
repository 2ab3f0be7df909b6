package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/runtime/holder"
)

const closeTimeout = 20 * time.Second

// startTimeout bounds a container's start, which nothing else interrupts.
const startTimeout = time.Minute

// unknownExitCode is what a container gets whose end nobody saw.
const unknownExitCode = 255

// load reads the records and removes what is half-made or broken.
func (s *Service) load(ctx context.Context) error {
	err := readRecords(s.dir.sandboxes(), func(id string, r sandboxRecord) {
		c, err := r.config()
		if err != nil || r.ID != id {
			s.log.Warn("removing a pod sandbox with a broken record", "id", id, "error", err)
			s.scrapSandbox(ctx, &sandbox{id: id, rec: r, config: nil})
			return
		}
		b := &sandbox{id: id, rec: r, config: c}
		if r.Phase == phaseCreating {
			s.log.Info("removing a half-made pod sandbox", "id", id)
			s.scrapSandbox(ctx, b)
			return
		}
		if r.Phase == phaseReady && r.BootID != s.boot {
			// The machine was restarted: its namespaces are gone, its address is not.
			if err := s.cfg.Network.Teardown(ctx, s.networkRequest(b)); err != nil {
				s.log.Warn("taking back the address of a pod sandbox", "id", id, "error", err)
			}
			b.rec.Phase = phaseNotReady
			if err := writeRecord(s.dir.sandbox(id), &b.rec); err != nil {
				s.log.Warn("record of a pod sandbox", "id", id, "error", err)
			}
		}
		s.sandboxes[id] = b
		s.names[sandboxName(c)] = id
	}, func(id string, err error) {
		s.log.Warn("removing a pod sandbox with a broken record", "id", id, "error", err)
		s.scrapSandbox(ctx, &sandbox{id: id})
	})
	if err != nil {
		return err
	}
	err = readRecords(s.dir.containers(), func(id string, r containerRecord) {
		c, err := r.config()
		b := s.sandboxes[r.SandboxID]
		if err != nil || r.ID != id || b == nil || r.Phase == phaseCreating {
			s.log.Info("removing a half-made container", "id", id, "error", err)
			s.scrapContainer(id)
			return
		}
		k := newContainer(id, b, r, c)
		if r.Phase == phaseCreated && r.BootID != s.boot {
			k.rec.Phase, k.rec.ExitCode, k.rec.Reason = phaseExited, unknownExitCode, holder.ReasonUnknown
			k.rec.FinishedAt = time.Now()
		}
		if k.rec.Phase == phaseExited {
			close(k.ended)
		}
		s.containers[id] = k
		s.names[containerName(b.id, c)] = id
	}, func(id string, err error) {
		s.log.Warn("removing a container with a broken record", "id", id, "error", err)
		s.scrapContainer(id)
	})
	if err != nil {
		return err
	}
	s.sweepStrays()
	connected := []string{}
	for id, b := range s.sandboxes {
		if b.rec.Phase == phaseReady && b.pinned().net {
			connected = append(connected, id)
		}
	}
	for _, id := range s.cfg.Network.Retain(connected) {
		s.log.Warn("a pod sandbox has lost its network and has to be made anew", "id", id)
		s.sandboxes[id].broken = true
	}
	return nil
}

// sweepStrays removes directories, mounts and snapshots that no record names.
func (s *Service) sweepStrays() {
	if entries, err := os.ReadDir(filepath.Join(s.dir.run(), "sandboxes")); err == nil {
		for _, e := range entries {
			if s.sandboxes[e.Name()] == nil {
				s.clearSandboxRun(e.Name())
			}
		}
	}
	if entries, err := os.ReadDir(filepath.Join(s.dir.run(), "containers")); err == nil {
		for _, e := range entries {
			if s.containers[e.Name()] == nil {
				s.scrapContainer(e.Name())
			}
		}
	}
	for _, id := range s.cfg.Images.Containers() {
		if s.containers[containerOfSnapshot(id)] == nil {
			if err := s.cfg.Images.Release(id); err != nil {
				s.log.Warn("removing the files of a container that is gone", "id", id, "error", err)
			}
		}
	}
}

// scrapSandbox removes everything of a sandbox that never became ready, or
// whose record cannot be read.
func (s *Service) scrapSandbox(ctx context.Context, b *sandbox) {
	if b.config != nil {
		if err := s.cfg.Network.Teardown(ctx, s.networkRequest(b)); err != nil {
			s.log.Warn("taking back the address of a pod sandbox", "id", b.id, "error", err)
		}
	}
	s.endTask(ctx, b.id)
	s.clearSandboxRun(b.id)
	if err := os.Remove(s.dir.sandbox(b.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("removing the record of a pod sandbox", "id", b.id, "error", err)
	}
}

// clearSandboxRun removes the volatile part of a sandbox.
func (s *Service) clearSandboxRun(id string) {
	err := errors.Join(
		unpinNamespaces(filepath.Join(s.dir.sandboxRun(id), "ns")),
		unmount(s.dir.shm(id)),
	)
	if err == nil {
		err = os.RemoveAll(s.dir.sandboxRun(id))
	}
	if err != nil {
		s.log.Warn("cleaning up behind a pod sandbox", "id", id, "error", err)
	}
}

// scrapContainer removes everything of a container but a running task.
func (s *Service) scrapContainer(id string) {
	err := s.unmountContainer(id)
	if err == nil {
		err = s.releaseSnapshots(id)
	}
	if rerr := os.Remove(s.dir.container(id)); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		s.log.Warn("cleaning up behind a container", "id", id, "error", err)
	}
}

// endTask kills a task that nobody wants and forgets it.
func (s *Service) endTask(ctx context.Context, id string) {
	err := s.client.Kill(ctx, id, unix.SIGKILL, true)
	if holder.HasCode(err, holder.CodeNotFound) {
		return
	}
	for range endTaskTries {
		if err = s.client.Delete(ctx, id); err == nil {
			return
		}
		time.Sleep(endTaskDelay)
		// Again: it may have been about to start when it was killed.
		_ = s.client.Kill(ctx, id, unix.SIGKILL, true)
	}
	s.log.Warn("a process does not end", "id", id, "error", err)
}

const (
	endTaskTries = 200
	endTaskDelay = 10 * time.Millisecond
)

// reconcile compares what a newly connected holder knows with what should run.
func (s *Service) reconcile(states []holder.State) {
	known := map[string]bool{}
	for _, st := range states {
		known[st.ID] = true
		if !s.wanted(st) {
			s.log.Info("ending a process that no pod asks for", "id", st.ID)
			s.endTask(s.ctx, st.ID)
		}
	}
	s.mu.RLock()
	var lost []*container
	for id, k := range s.containers {
		if !known[id] && k.isRunning() {
			lost = append(lost, k)
		}
	}
	var broke []*sandbox
	for id, b := range s.sandboxes {
		if !known[id] && b.options().GetPid() == cri.NamespaceMode_POD && b.record().Phase == phaseReady {
			broke = append(broke, b)
		}
	}
	s.mu.RUnlock()
	for _, k := range lost {
		s.exited(k, lostState(k.id))
	}
	for _, b := range broke {
		s.sandboxBroke(b)
	}
}

// wanted tells whether somebody asks for a task: a container that has not ended, or a sandbox.
func (s *Service) wanted(st holder.State) bool {
	s.mu.RLock()
	k := s.containers[st.ID]
	wanted := s.reserved(st.ID)
	s.mu.RUnlock()
	if k != nil && st.Phase == holder.PhaseRunning {
		return k.record().Phase != phaseExited
	}
	return wanted
}

// reserved tells whether a sandbox or container of this id is there or being
// made. s.mu is held.
func (s *Service) reserved(id string) bool {
	for _, owner := range s.names {
		if owner == id {
			return true
		}
	}
	return false
}

// lostState is the end of a container that nobody saw.
func lostState(id string) holder.State {
	return holder.State{ID: id, Phase: holder.PhaseExited, ExitCode: unknownExitCode, Reason: holder.ReasonUnknown, FinishedAt: time.Now()}
}

// lostPatience is how long the end of a container that the holder has forgotten
// may take to arrive.
const lostPatience = 2 * time.Second
