package node

import "strings"

// noteReset notices that the end of a container asks for the restart of all (KEP-5532). From when nothing is under way any more, all
// containers that there are belong to the past.
func (w *worker) noteReset() {
	cause := restartsAll(w.pod, w.observed)
	if cause == nil || cause.ID == w.resetBy || w.startsOrStops() {
		return
	}
	w.resetBy = cause.ID
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		w.past[c.ID] = true
		delete(w.failures, c.Name)
	}
}

// settling says that all containers are to be restarted as soon as nothing is under way.
func (w *worker) settling() bool {
	cause := restartsAll(w.pod, w.observed)
	return cause != nil && cause.ID != w.resetBy
}

// restartingAll says that containers of the past still run.
func (w *worker) restartingAll() bool {
	if w.settling() {
		return true
	}
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if c.Running() && w.past[c.ID] && !isEphemeral(w.pod, c.Name) {
			return true
		}
	}
	return false
}

// startsOrStops tells whether any container is being started or ended.
func (w *worker) startsOrStops() bool {
	for key := range w.tasks {
		if strings.HasPrefix(key, "c/") {
			return true
		}
	}
	return false
}
