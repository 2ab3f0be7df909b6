package runtime

import (
	"os"
	"path/filepath"
	"strings"
)

// To move a process into a cgroup the kernel first waits until no CPU is in the
// middle of a fork (an RCU grace period, about 10 ms), unless it has just done
// so for somebody else: then the way is open for about as long again. So while a
// sandbox is being made, we move ourselves from our cgroup to our cgroup, which
// does nothing else, and the first container of the pod does not have to wait.

// ownProcs is the cgroup.procs of a cgroup that this process is in, from what
// cgroups(7) says of /proc/PID/cgroup; "" if it isn't there.
func ownProcs(cgroups string, unified bool) string {
	controller, mount := "pids", "/sys/fs/cgroup/pids"
	if unified {
		controller, mount = "", "/sys/fs/cgroup"
	}
	for line := range strings.Lines(cgroups) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && fields[1] == controller {
			return filepath.Join(mount, fields[2], "cgroup.procs")
		}
	}
	return ""
}

// expectMigration opens the way. It does not wait; one at a time is enough.
func (s *Service) expectMigration() {
	if !s.migrating.CompareAndSwap(false, true) {
		return
	}
	s.wg.Go(func() {
		defer s.migrating.Store(false)
		cgroups, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return
		}
		f, err := os.OpenFile(ownProcs(string(cgroups), s.host.unified), os.O_WRONLY, 0)
		if err != nil {
			return // not to be seen from here: the container's start waits, then
		}
		_, _ = f.WriteString("0") // ourselves
		_ = f.Close()
	})
}
