package vm

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// diskSize is the size of the machine's only disk; the file is sparse.
const diskSize = "4G"

// applets are the commands that scripts in the machine use.
var applets = []string{
	"sh", "mount", "umount", "mkdir", "cat", "echo", "sleep", "ip", "base64", "ls", "grep", "ps", "kill", "find", "rm", "seq", "setsid", "stat",
	"test", "wc", "head", "tail", "sed", "hostname", "dmesg", "insmod", "poweroff", "sync", "df", "free", "cut", "tr", "true", "sort", "touch", "dd",
	"rmdir", "env", "printf", "readlink", "pidof", "losetup", "mv", "date", "lsmod", "netstat", "cmp", "fallocate", "unshare",
}

// boot is what the machine does first: a mount table as a distribution has it, with cgroup v2 alone, and its network.
const boot = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount --make-rshared /
hostname celox-vm
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
`

// shell answers what comes through the serial port: a line is a script in base64, its answer the exit code and the output.
const shell = `#!/bin/sh
while :; do
  port=$(ls /dev/vport*p1 | head -n 1)
  exec 3<>"$port"
  while read -r line <&3; do
    echo "$line" | base64 -d >/tmp/.script
    sh /tmp/.script >/tmp/.output 2>&1 </dev/null
    code=$?
    echo "$code $(base64 -w 0 /tmp/.output)" >&3
  done
  exec 3>&-
  sleep 0.1
done
`

// pulse shows that the machine's clock and processors go: a byte that the console never carries otherwise, each second.
const pulse = `#!/bin/sh
while :; do
  printf '\001'
  sleep 1
done >/dev/ttyS0
`

const inittab = `::sysinit:/etc/boot
::respawn:/etc/shell
::respawn:/etc/pulse
::shutdown:/bin/sync
`

// makeDisk makes the machine's disk: file is what it is written to, files are copied to its paths.
func makeDisk(file, scratch string, files map[string]string) error {
	root := filepath.Join(scratch, "root")
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "var/log", "var/lib", "etc/ssl/certs"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"etc/boot": boot, "etc/shell": shell, "etc/pulse": pulse, "etc/inittab": inittab,
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
		"etc/hosts": "127.0.0.1 localhost\n10.0.2.15 celox-vm\n", "etc/resolv.conf": "nameserver 10.0.2.3\n",
		"etc/machine-id": "00000000000000000000000000000001\n", "etc/os-release": "PRETTY_NAME=\"Celox test machine\"\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			return err
		}
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(root, to), from); err != nil {
			return err
		}
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			return err
		}
	}
	if err := os.Symlink("/bin/busybox", filepath.Join(root, "sbin/init")); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-d", root, "-E", "lazy_itable_init=1", file, diskSize).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w\n%s", err, out)
	}
	return os.RemoveAll(root)
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = io.Copy(out, in)
	return err
}
