package main

import (
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The system calls that RuntimeDefault allows to every container: those that
// ordinary programs use and that touch nothing outside of their namespaces. A
// name that an architecture or the library does not know is left out there.
const allowedSyscalls = `
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek
lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown
sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs
statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate
truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork
vmsplice wait4 waitid waitpid write writev`

// architectureSyscalls are allowed on one architecture only.
var architectureSyscalls = map[string]string{
	"amd64":   "arch_prctl modify_ldt",
	"386":     "modify_ldt",
	"arm64":   "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
	"arm":     "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
	"ppc64le": "sync_file_range2 swapcontext",
	"s390x":   "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
	"riscv64": "riscv_flush_icache riscv_hwprobe",
}

// capabilitySyscalls are allowed to those who have the capability, which the
// kernel asks for again.
var capabilitySyscalls = map[string]string{
	"CAP_BPF":             "bpf",
	"CAP_DAC_READ_SEARCH": "open_by_handle_at",
	"CAP_PERFMON":         "perf_event_open",
	"CAP_SYS_ADMIN": `bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd
setdomainname sethostname setns syslog umount umount2 unshare`,
	"CAP_SYS_BOOT":       "reboot",
	"CAP_SYS_CHROOT":     "chroot",
	"CAP_SYS_MODULE":     "delete_module finit_module init_module",
	"CAP_SYS_NICE":       "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
	"CAP_SYS_PACCT":      "acct",
	"CAP_SYS_PTRACE":     "kcmp pidfd_getfd process_madvise",
	"CAP_SYS_RAWIO":      "ioperm iopl",
	"CAP_SYS_TIME":       "clock_settime clock_settime64 settimeofday stime",
	"CAP_SYS_TTY_CONFIG": "vhangup",
	"CAP_SYSLOG":         "syslog",
}

// seccompArchitectures are the native one and, with compatible, the one whose
// programs it runs as well. Without compatible those programs are killed; with it
// the library needs three times as long for the filter, and so would every start
// of a container.
func seccompArchitectures(compatible bool) []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		if compatible {
			return []specs.Arch{specs.ArchX86_64, specs.ArchX86}
		}
		return []specs.Arch{specs.ArchX86_64}
	case "arm64":
		if compatible {
			return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
		}
		return []specs.Arch{specs.ArchAARCH64}
	case "386":
		return []specs.Arch{specs.ArchX86}
	case "arm":
		return []specs.Arch{specs.ArchARM}
	case "ppc64le":
		return []specs.Arch{specs.ArchPPC64LE}
	case "s390x":
		return []specs.Arch{specs.ArchS390X, specs.ArchS390}
	case "riscv64":
		return []specs.Arch{specs.ArchRISCV64}
	}
	return nil
}

// has32Bit tells whether a container may run programs of 32 bit: its own program
// is one, or its image has a loader for them.
func has32Bit(spec *specs.Spec) bool {
	for _, loader := range []string{"/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1", "/lib/ld-linux-armhf.so.3", "/lib/ld-musl-armhf.so.1"} {
		if path, err := securejoin.SecureJoin(spec.Root.Path, loader); err == nil {
			if _, err := os.Lstat(path); err == nil {
				return true
			}
		}
	}
	program := spec.Process.Args[0]
	candidates := []string{program}
	if !strings.Contains(program, "/") {
		candidates = nil
		for _, e := range spec.Process.Env {
			if dirs, ok := strings.CutPrefix(e, "PATH="); ok {
				for _, dir := range filepath.SplitList(dirs) {
					candidates = append(candidates, filepath.Join(dir, program))
				}
			}
		}
	} else if !filepath.IsAbs(program) {
		candidates = []string{filepath.Join(spec.Process.Cwd, program)}
	}
	for _, c := range candidates {
		path, err := securejoin.SecureJoin(spec.Root.Path, c)
		if err != nil {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		head := make([]byte, elf.EI_CLASS+1)
		_, err = io.ReadFull(f, head)
		return err == nil && string(head[:len(elf.ELFMAG)]) == elf.ELFMAG && elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS32
	}
	return false // what does not exist here may be in a volume; ordinary ones are native
}

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// personalities are the execution domains that a container may choose: the
// native and the 32 bit one, with and without the old memory layout, and asking.
var personalities = []uint64{0x0, 0x0008, 0x20000, 0x20008, 0xffffffff}

// defaultSeccomp is the filter that Kubernetes calls RuntimeDefault: everything
// that is not named fails with EPERM.
func defaultSeccomp(spec *specs.Spec) *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	profile := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &eperm,
		Architectures:   seccompArchitectures(has32Bit(spec)),
	}
	allow := func(names string, args ...specs.LinuxSeccompArg) {
		if fields := strings.Fields(names); len(fields) > 0 {
			profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: fields, Action: specs.ActAllow, Args: args})
		}
	}
	allow(allowedSyscalls)
	allow(architectureSyscalls[runtime.GOARCH])
	for _, p := range personalities {
		allow("personality", specs.LinuxSeccompArg{Index: 0, Value: p, Op: specs.OpEqualTo})
	}
	// AF_VSOCK reaches the hypervisor and knows no network namespaces.
	allow("socket", specs.LinuxSeccompArg{Index: 0, Value: unix.AF_VSOCK, Op: specs.OpNotEqual})

	var have []string
	if spec.Process != nil && spec.Process.Capabilities != nil {
		have = slices.Clone(spec.Process.Capabilities.Bounding)
	}
	slices.Sort(have)
	for _, c := range have {
		allow(capabilitySyscalls[c])
	}
	if _, admin := slices.BinarySearch(have, "CAP_SYS_ADMIN"); !admin {
		flags := uint(0)
		if runtime.GOARCH == "s390x" {
			flags = 1 // the two first arguments change places there
		}
		allow("clone", specs.LinuxSeccompArg{Index: flags, Value: newNamespaces, ValueTwo: 0, Op: specs.OpMaskedEqual})
		// The flags of clone3 are in memory, where a filter cannot look; without
		// the call libraries fall back to clone.
		profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})
	}
	return profile
}
