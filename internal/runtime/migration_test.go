package runtime

import "testing"

func TestOwnProcs(t *testing.T) {
	const hybrid = "9:name=systemd:/\n8:pids:/a:b\n4:memory:/other\n0::/unified\n"
	for _, c := range []struct {
		name, cgroups string
		unified       bool
		want          string
	}{
		{"v1", hybrid, false, "/sys/fs/cgroup/pids/a:b/cgroup.procs"},
		{"v2", hybrid, true, "/sys/fs/cgroup/unified/cgroup.procs"},
		{"root", "3:pids:/\n", false, "/sys/fs/cgroup/pids/cgroup.procs"},
		{"no such hierarchy", "4:memory:/\n", false, ""},
		{"nothing", "", true, ""},
		{"cut off", "3:pids", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ownProcs(c.cgroups, c.unified); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
