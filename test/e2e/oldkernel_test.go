package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/e2e/machine"
)

// oldKernel is the variable that makes this test binary a program that runs the one that it names, with its own arguments, as if the kernel had no
// nf_tables.
const oldKernel = "CELOX_E2E_OLD_KERNEL"

// onOldKernel runs the program. What it and its children ask of netfilter is answered as by a kernel that was built without it.
func onOldKernel(program string) error {
	runtime.LockOSThread() // a filter is the thread's, and the process's after exec
	const netlinkNetfilter = unix.NETLINK_NETFILTER
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: value}
	}
	// struct seccomp_data: the number of the call, and from the 16th byte on its arguments, of 8 bytes each.
	filter := []unix.SockFilter{
		load(0), unless(unix.SYS_SOCKET, 5),
		load(16), unless(unix.AF_NETLINK, 3),
		load(32), unless(netlinkNetfilter, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
}

// TestKernelWithoutNFTables: pods run and services work, and what does not is said.
func TestKernelWithoutNFTables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // goes after the machines, which need the program to be removed
	s := newFleet(t)
	s.machines = s.machines[:1]
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wrapper := filepath.Join(dir, "celox")
	if err := os.WriteFile(wrapper, fmt.Appendf(nil, "#!/bin/sh\n%s=%s exec %s \"$@\"\n", oldKernel, bin, self), 0o700); err != nil {
		t.Fatal(err)
	}
	s.machines[0].Upgrade(wrapper)
	if err := s.machines[0].Start("--service-cidr", "10.43.0.0/16"); err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{"services go through celox itself (--proxy-mode=userspace)", "NETWORK POLICIES ARE NOT ENFORCED", "pods keep their addresses on the way out"} {
		machine.Wait(t, "the server to say so", func(context.Context) error {
			if !strings.Contains(s.machines[0].Output(), said) {
				return fmt.Errorf("it does not say %q", said)
			}
			return nil
		})
	}
	if s.client, err = s.machines[0].Client(); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, s.machines[0])
	if _, err := s.machines[0].Kubectl(strings.NewReader(everywhere), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	var on map[string][]corev1.Pod
	machine.Wait(t, "the pods", func(ctx context.Context) error {
		on, err = s.running(ctx, 6)
		return err
	})
	if _, err := s.machines[0].Kubectl(nil, "expose", "deployment", "everywhere", "--port", "80", "--target-port", "8080"); err != nil {
		t.Fatal(err)
	}
	svc, err := s.client.CoreV1().Services("default").Get(t.Context(), "everywhere", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the service, from the machine and from a pod", func(context.Context) error {
		if _, err := s.get(0, "http://"+svc.Spec.ClusterIP+"/cgi-bin/who"); err != nil {
			return err
		}
		out, err := s.machines[0].Kubectl(nil, "exec", on["stage-0"][0].Name, "--", "sh", "-c",
			fmt.Sprintf("printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 %s 80 | tail -n 1", svc.Spec.ClusterIP))
		if err == nil && !strings.HasPrefix(out, "10.") {
			err = fmt.Errorf("the answer is %q", out)
		}
		return err
	})
}
