package node

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/observed"
)

// whenEnded closes done when the container isn't running any more, or its pod is gone. The returned function forgets it.
func (w *worker) whenEnded(id string, done chan struct{}) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.seen && !w.live[id] {
		close(done)
		return func() {}
	}
	if w.waiters == nil {
		w.waiters = map[chan struct{}]string{}
	}
	w.waiters[done] = id
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiters, done)
	}
}

// noteLive tells those who wait for containers to end which ones still live.
func (w *worker) noteLive(o *observed.Pod) {
	live := map[string]bool{}
	for i := range o.Containers {
		if o.Containers[i].Running() {
			live[o.Containers[i].ID] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live, w.seen = live, true
	for done, id := range w.waiters {
		if !live[id] {
			close(done)
			delete(w.waiters, done)
		}
	}
}

// close lets go of all who wait for containers of this pod.
func (w *worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for done := range w.waiters {
		close(done)
		delete(w.waiters, done)
	}
}

func (w *worker) logFileOf(pod *corev1.Pod, c *observed.Container) string {
	if filepath.IsAbs(c.LogPath) {
		return c.LogPath
	}
	return filepath.Join(criconfig.PodLogDir(w.n.cfg.LogDir, pod.Namespace, pod.Name, w.uid), criconfig.LogPath(c.Name, c.RestartCount))
}
