package main

/*
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>

// The init of a shared process namespace: it only reaps. It is C and runs
// before the Go runtime, because there is one per such pod and it should weigh
// nothing. It shares its process namespace with untrusted containers, so it
// leaves them nothing to reach: an empty root of its own, no rights, no dump.
__attribute__((constructor)) static void celox_pause(void) {
	const char *root = getenv("CELOX_PAUSE_ROOT");
	if (root == NULL)
		return;
	if (unshare(CLONE_NEWNS) != 0 ||
	    mount("", "/", "", MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("pause", root, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0,mode=555") != 0 ||
	    chdir(root) != 0 ||
	    syscall(SYS_pivot_root, ".", ".") != 0 ||
	    umount2(".", MNT_DETACH) != 0 ||
	    chdir("/") != 0)
		_exit(1);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_SETMASK, &set, NULL);
	if (setgroups(0, NULL) != 0 || setresgid(65535, 65535, 65535) != 0 || setresuid(65535, 65535, 65535) != 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
		_exit(1);
	prctl(PR_SET_NAME, "celox-pause", 0, 0, 0);
	// The holder waits for this byte: the namespace may be used from now on.
	if (write(1, "r", 1) != 1)
		_exit(1);
	close(0);
	close(1);
	close(2);
	for (;;) {
		int sig = sigwaitinfo(&set, NULL);
		if (sig == SIGTERM || sig == SIGINT)
			_exit(0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}
*/
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// runPause starts the init of a shared process namespace.
func (t *task) runPause(spec *holder.Task) (err error) {
	if !filepath.IsAbs(spec.PauseCgroup) {
		return holder.Errorf(holder.CodeInvalid, "cgroup path %q is not absolute", spec.PauseCgroup)
	}
	t.st.Cgroup = spec.PauseCgroup
	dir := t.s.layout.Task(t.id)
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := writeState(t.s.layout, t.st); err != nil {
		return err
	}
	// A copy that containers cannot write back to the program on the disk.
	exe, err := exeseal.CloneSelfExe(dir)
	if err != nil {
		return err
	}
	defer exe.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/fd/" + strconv.Itoa(pauseExeFD))
	cmd.Args = []string{"celox-pause"}
	cmd.Env = []string{"CELOX_PAUSE_ROOT=" + root}
	cmd.Dir = "/"
	cmd.Stdout = theirs
	cmd.ExtraFiles = []*os.File{exe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("starting the init of a shared process namespace: %w", err)
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			removePauseCgroup(spec.PauseCgroup)
		}
	}()
	cg, err := pauseManager(spec.PauseCgroup)
	if err != nil {
		return err
	}
	if err := cg.Apply(cmd.Process.Pid); err != nil {
		return err
	}
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("it ended")
		}
		return fmt.Errorf("starting the init of a shared process namespace: %w", err)
	}
	return t.running(cmd.Process.Pid)
}

const pauseExeFD = 3 // the first of ExtraFiles

func pauseManager(path string) (cgroups.Manager, error) {
	return manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
}

func removePauseCgroup(path string) {
	if cg, err := pauseManager(path); err == nil {
		_ = cg.Destroy()
	}
}
