package vm

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	memoryMiB = 2048
	apiPort   = 6443 // inside
	dataDir   = "/var/lib/celox"

	// bootPatience bounds how long the machine may take to answer; shPatience how long a script in it may take. Emulation is ten to
	// thirty times slower than the processor, and other builds may run beside it.
	bootPatience = 3 * time.Minute
	shPatience   = 3 * time.Minute

	// stillAfter is how long a machine may go without a beat of its pulse. Whatever celox does in it, the kernel there lets a process print a byte in that time.
	stillAfter = time.Minute
)

// errStill says that the emulator makes no more progress: neither the kernel in the machine nor any process of it does anything, with nothing on the console. That
// happens once in some dozens of runs on busy hosts, and tells nothing of celox.
var errStill = errors.New("the virtual machine stands still")

// Modules that the disk, the network and containers need. What a kernel has built in is left out.
var (
	diskModules = []string{"virtio_pci", "virtio_blk", "ext4"}
	moreModules = []string{
		"virtio_net", "virtio_console", "overlay", "veth", "bridge", "dummy", "br_netfilter", "nf_tables", "nft_chain_nat", "nft_masq", "nft_nat",
		"nft_ct", "nft_redir", "nft_reject_inet", "nft_fib_inet", "nft_numgen", "nft_hash", "nft_limit", "nft_log", "nft_objref", "nf_conntrack_netlink",
		"wireguard", "vxlan",
	}
)

// Machine is a virtual machine that runs. Its methods are safe for concurrent use.
type Machine struct {
	dir     string
	qemu    *exec.Cmd
	done    chan struct{} // closed when qemu has ended
	port    int           // of the API on the loopback address
	console console

	mu    sync.Mutex // guards what is below: one script at a time
	serie net.Conn
	lines *bufio.Reader
	still bool // it stood still when a script was waited for, and is asked no more
}

// console keeps what the machine's kernel and init say, and when its pulse last beat.
type console struct {
	mu   sync.Mutex
	buf  bytes.Buffer // guarded by mu
	beat time.Time    // guarded by mu; zero before the first
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := bytes.ReplaceAll(p, []byte{1}, nil)
	if len(said) < len(p) {
		c.beat = time.Now()
	}
	c.buf.Write(said)
	return len(p), nil
}

// silent says whether the pulse has stopped. A machine that has not begun to beat is not silent: it boots.
func (c *console) silent(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.beat.IsZero() && now.Sub(c.beat) > stillAfter
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// Boot starts a machine whose disk has the given files besides busybox: path inside to path here.
func Boot(kernel *Kernel, files map[string]string) (m *Machine, err error) {
	dir, err := os.MkdirTemp("", "celox-vm-")
	if err != nil {
		return nil, err
	}
	m = &Machine{dir: dir, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	const busybox = "/bin/busybox"
	all := map[string]string{"bin/busybox": busybox}
	for to, from := range files {
		all[to] = from
	}
	disk := filepath.Join(dir, "disk")
	if err := makeDisk(disk, dir, all); err != nil {
		return m, err
	}
	bb, err := os.ReadFile(busybox)
	if err != nil {
		return m, err
	}
	modules, err := kernel.load(append(append([]string{}, diskModules...), moreModules...)...)
	if err != nil {
		return m, err
	}
	initrd := filepath.Join(dir, "initramfs")
	if err := os.WriteFile(initrd, initramfs(bb, modules), 0o600); err != nil {
		return m, err
	}
	if m.port, err = freePort(); err != nil {
		return m, err
	}
	socket := filepath.Join(dir, "shell")
	accel := os.Getenv("CELOX_VM_ACCEL")
	if accel == "" {
		accel = "tcg,thread=multi"
	}
	m.qemu = exec.Command("qemu-system-x86_64",
		"-machine", "q35", "-accel", accel, "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(memoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", kernel.Image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 hugepages=16 swapaccount=1",
		"-drive", "file="+disk+",if=none,id=disk,format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=disk",
		"-netdev", fmt.Sprintf("user,id=net,restrict=off,hostfwd=tcp:127.0.0.1:%d-:%d", m.port, apiPort), "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=shell,path="+socket+",server=on,wait=off", "-device", "virtserialport,chardev=shell,name=celox",
	)
	m.qemu.Stdout, m.qemu.Stderr = &m.console, &m.console
	if err := m.qemu.Start(); err != nil {
		return m, fmt.Errorf("qemu (Debian's qemu-system-x86): %w", err)
	}
	go func() {
		_ = m.qemu.Wait() // how it ended is in ProcessState
		close(m.done)
	}()
	return m, m.connect(socket)
}

// freePort finds a port that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(port)
	return n, errors.Join(err, l.Close())
}

// connect waits until the shell inside answers.
func (m *Machine) connect(socket string) error {
	deadline := time.Now().Add(bootPatience)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			m.serie, m.lines = conn, bufio.NewReaderSize(conn, 1<<20)
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-m.done:
			return fmt.Errorf("qemu ended: %s\n%s", m.qemu.ProcessState, m.Console())
		case <-time.After(20 * time.Millisecond):
		}
	}
	_, err := m.sh("true", bootPatience)
	if err != nil {
		return fmt.Errorf("the machine does not answer: %w\n%s", err, m.Console())
	}
	return nil
}

// Console is what the kernel has said.
func (m *Machine) Console() string { return m.console.String() }

// Sh runs a script in the machine and returns what it printed, on both outputs. An exit code other than 0 is an error.
func (m *Machine) Sh(script string) (string, error) { return m.sh(script, shPatience) }

func (m *Machine) sh(script string, patience time.Duration) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.serie == nil {
		return "", errors.New("the machine is off")
	}
	if m.still {
		return "", errStill
	}
	if err := m.serie.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(m.serie, base64.StdEncoding.EncodeToString([]byte(script))); err != nil {
		return "", err
	}
	line, err := m.lines.ReadString('\n')
	if m.still = err != nil && m.console.silent(time.Now()); m.still {
		return "", fmt.Errorf("no answer to %q: %w", script, errStill)
	}
	if err != nil {
		return "", fmt.Errorf("no answer to %q: %w", script, err)
	}
	code, encoded, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok && code != "0" {
		encoded = ""
	}
	out, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("answer to %q: %w: %q", script, err, line)
	}
	if code != "0" {
		return string(out), fmt.Errorf("%s: exit code %s\n%s", script, code, out)
	}
	return string(out), nil
}

// RESTConfig is the administrator's way to the API server in the machine.
func (m *Machine) RESTConfig() (*rest.Config, error) {
	text, err := m.Sh("cat " + dataDir + "/admin.kubeconfig")
	if err != nil {
		return nil, err
	}
	c, err := clientcmd.RESTConfigFromKubeConfig([]byte(text))
	if err != nil {
		return nil, err
	}
	c.Host, c.QPS = fmt.Sprintf("https://127.0.0.1:%d", m.port), -1
	c.Proxy = nil
	return c, nil
}

// Close ends the machine and removes its disk.
func (m *Machine) Close() error {
	if m.serie != nil {
		_ = m.serie.Close()
	}
	if m.qemu != nil && m.qemu.Process != nil {
		_ = m.qemu.Process.Kill()
		<-m.done
	}
	return os.RemoveAll(m.dir)
}
