package machine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/celox/celox/test/image"
)

// startTimeout is how long a start may take on a machine that is busy with other things. It is a bound, not a measurement.
const startTimeout = 3 * time.Minute

// Machine is a network namespace with a data directory, and the celox that runs there.
type Machine struct {
	DataDir string
	NS      *NetNS
	// Env are variables of the commands that run there, beside those of this process.
	Env  []string
	bin  string
	name string

	mu     sync.Mutex // guards server, output
	server *exec.Cmd
	done   chan struct{} // closed when server has ended
	output *output
}

// output collects what a server says and tells who waits for a word.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	wake chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	close(o.wake)
	o.wake = make(chan struct{})
	return len(p), nil
}

func (o *output) text() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.wake
}

// Binary is the celox under test, from CELOX_BIN.
func Binary() (string, error) {
	bin := os.Getenv("CELOX_BIN")
	if bin == "" {
		return "", errors.New("CELOX_BIN does not name the binary to test: run `make e2e`")
	}
	if os.Geteuid() != 0 {
		return "", errors.New("end-to-end tests start real containers and need root")
	}
	return bin, nil
}

// nameInPaths is how much of a machine's name its paths have: those of sockets below them have at most 107 bytes.
const nameInPaths = 32

// New makes a machine with nothing on it. The beginning of its name appears in its paths.
func New(name string) (*Machine, error) {
	bin, err := Binary()
	if err != nil {
		return nil, err
	}
	return NewOf(bin, name)
}

// NewOf is New for another binary than the one to test.
func NewOf(bin, name string) (*Machine, error) {
	dir, err := os.MkdirTemp("", "celox-"+name[:min(len(name), nameInPaths)]+"-")
	if err != nil {
		return nil, err
	}
	ns, err := NewNetNS()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &Machine{DataDir: filepath.Join(dir, "data"), NS: ns, bin: bin, name: name}, nil
}

// ForTest is New for one test: the machine is removed with everything when the test ends, and the test fails if that fails.
func ForTest(t *testing.T) *Machine {
	t.Helper()
	m, err := New(strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server said:\n%s", m.Output())
		}
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Dir makes a directory that pods of this machine may mount. It goes with the machine and not with the test: the end of a test's pods is not
// awaited, and a container that starts late makes the directory anew.
func (m *Machine) Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(m.DataDir), "dir-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // for pods of any user
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Command makes a command that is to be started with m.NS.Start, or with Run.
func (m *Machine) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.Kubeconfig(), "CELOX_DATA_DIR="+m.DataDir, "HOME="+filepath.Dir(m.DataDir),
		"NO_PROXY=*", "no_proxy=*", "KUBECTL_EXTERNAL_DIFF=diff -u -N")
	cmd.Env = append(cmd.Env, m.Env...)
	return cmd
}

// Run runs a command to its end. The error holds what it printed.
func (m *Machine) Run(stdin io.Reader, name string, args ...string) (stdout string, err error) {
	cmd := m.Command(name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := m.NS.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String(), nil
}

// Upgrade puts another celox in the place of the one that ran so far. It counts for what is started from then on.
func (m *Machine) Upgrade(bin string) { m.bin = bin }

// Celox runs a celox command.
func (m *Machine) Celox(args ...string) (string, error) { return m.Run(nil, m.bin, args...) }

// Kubectl runs the built-in kubectl. Stdin may be nil.
func (m *Machine) Kubectl(stdin io.Reader, args ...string) (string, error) {
	return m.Run(stdin, m.bin, append([]string{"kubectl"}, args...)...)
}

// Kubeconfig is the administrator's.
func (m *Machine) Kubeconfig() string { return filepath.Join(m.DataDir, "admin.kubeconfig") }

// Start starts `celox server` and waits for the line that says it is up: the node is Ready, or for a control plane the API.
func (m *Machine) Start(args ...string) error {
	up := " is Ready after "
	for _, a := range args {
		if a == "--disable-node" {
			up = "kubeconfig is "
		}
	}
	return m.start("server", up, args)
}

// StartAgent starts `celox agent` and waits until its node is Ready.
func (m *Machine) StartAgent(args ...string) error { return m.start("agent", " is Ready after ", args) }

// Begin starts `celox agent` and waits for a line with a word of its own.
func (m *Machine) Begin(word string, args ...string) error { return m.start("agent", word, args) }

// BeginServer starts `celox server` and waits for a line with a word of its own.
func (m *Machine) BeginServer(word string, args ...string) error {
	return m.start("server", word, args)
}

// start starts celox and waits until it has said that it is up.
func (m *Machine) start(command, up string, args []string) error {
	m.mu.Lock()
	if m.server != nil {
		m.mu.Unlock()
		return errors.New("the server runs already")
	}
	// How full this machine's disk is must not matter.
	cmd := m.Command(m.bin, append([]string{command, "--data-dir", m.DataDir, "--node-name", m.name, "--log-level", "info",
		"--eviction-hard", "memory.available<100Mi", "--image-gc-high-threshold", "100"}, args...)...)
	out := &output{wake: make(chan struct{})}
	if m.output != nil {
		old, _ := m.output.text()
		out.buf.WriteString(old + "--- started again\n")
	}
	from := out.buf.Len()
	cmd.Stdout, cmd.Stderr = out, out
	done := make(chan struct{})
	m.server, m.output, m.done = cmd, out, done
	m.mu.Unlock()
	if err := m.NS.Start(cmd); err != nil {
		return err
	}
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		close(done)
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	for {
		text, wake := out.text()
		if strings.Contains(text[from:], up) {
			return nil
		}
		select {
		case <-wake:
		case <-done:
			text, _ := out.text()
			m.forget()
			return fmt.Errorf("the server ended: %s\n%s", cmd.ProcessState, text[from:])
		case <-timeout.C:
			return fmt.Errorf("not up after %s:\n%s", startTimeout, text[from:])
		}
	}
}

func (m *Machine) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.server, m.done = nil, nil
}

// Output is what all servers of this machine have said.
func (m *Machine) Output() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.output == nil {
		return ""
	}
	text, _ := m.output.text()
	return text
}

// Signal sends a signal to the server and waits for its end.
func (m *Machine) Signal(sig syscall.Signal) error {
	m.mu.Lock()
	cmd, done := m.server, m.done
	m.mu.Unlock()
	if cmd == nil {
		return errors.New("no server runs")
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
	case <-time.After(startTimeout):
		return fmt.Errorf("the server did not end after %s", sig)
	}
	m.forget()
	if sig != syscall.SIGKILL && !cmd.ProcessState.Success() {
		return fmt.Errorf("the server ended badly after %s: %s", sig, cmd.ProcessState)
	}
	return nil
}

// Ended waits until the server has ended by itself, and returns its exit code.
func (m *Machine) Ended() (int, error) {
	m.mu.Lock()
	cmd, done := m.server, m.done
	m.mu.Unlock()
	if cmd == nil {
		return 0, errors.New("no server runs")
	}
	select {
	case <-done:
	case <-time.After(startTimeout):
		return 0, errors.New("the server does not end")
	}
	m.forget()
	return cmd.ProcessState.ExitCode(), nil
}

// Pid is the server's, 0 when none runs.
func (m *Machine) Pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server == nil || m.server.Process == nil { // it could not be started
		return 0
	}
	return m.server.Process.Pid
}

// RESTConfig is for clients in this process.
func (m *Machine) RESTConfig() (*rest.Config, error) {
	c, err := clientcmd.BuildConfigFromFlags("", m.Kubeconfig())
	if err != nil {
		return nil, err
	}
	c.Dial, c.QPS = m.NS.Dial, -1
	c.Proxy = http.ProxyURL(nil)
	return c, nil
}

// Client is a clientset for this process.
func (m *Machine) Client() (kubernetes.Interface, error) {
	c, err := m.RESTConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(c)
}

// HTTP is a client that connects from within the machine.
func (m *Machine) HTTP() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: m.NS.Dial, DisableKeepAlives: true}}
}

// Import gives the machine an image under a name.
func (m *Machine) Import(tag string, img v1.Image) error {
	f, err := os.CreateTemp(filepath.Dir(m.DataDir), "image-*.tar") // tests that share the machine do this at the same time
	if err != nil {
		return err
	}
	err = errors.Join(image.WriteArchive(f, map[string]v1.Image{tag: img}), f.Close())
	if err == nil {
		_, err = m.Celox("image", "import", "--data-dir", m.DataDir, f.Name())
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// Remove ends the server, resets the machine and says if anything was left behind.
func (m *Machine) Remove() error {
	var errs []error
	if m.Pid() != 0 {
		errs = append(errs, m.Signal(syscall.SIGTERM))
	}
	if _, err := m.Celox("reset", "--yes", "--data-dir", m.DataDir); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, m.leftovers())
	errs = append(errs, m.NS.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove machine %s: %w", m.name, err)
	}
	return os.RemoveAll(filepath.Dir(m.DataDir))
}

// leftovers looks for processes, mounts, links, tables and cgroups that the cluster made and reset did not remove.
func (m *Machine) leftovers() error {
	var errs []error
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, m.DataDir) {
			errs = append(errs, fmt.Errorf("mount left: %s", strings.TrimSpace(line)))
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, p := range procs {
		if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, []byte(m.DataDir)) {
			errs = append(errs, fmt.Errorf("process left: %s: %s", p, bytes.ReplaceAll(data, []byte{0}, []byte{' '})))
		}
	}
	errs = append(errs, m.NS.Do(func() error {
		links, err := netInterfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l != "lo" && l != Interface {
				return fmt.Errorf("network interface left: %s", l)
			}
		}
		return tablesLeft()
	}))
	if _, err := os.Stat(m.DataDir); err == nil {
		errs = append(errs, fmt.Errorf("%s is still there", m.DataDir))
	}
	return errors.Join(append(errs, m.cgroupsLeft())...)
}

// cgroupsLeft looks for the cluster's cgroup in every hierarchy; its name is a hash of the data directory.
func (m *Machine) cgroupsLeft() error {
	sum := sha256.Sum256([]byte(m.DataDir))
	name := "celox-" + hex.EncodeToString(sum[:4])
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, dir := range left {
			errs = append(errs, fmt.Errorf("cgroup left: %s", dir))
		}
	}
	return errors.Join(errs...)
}

// Wait calls check until it returns nil, or fails the test with its last error.
func Wait(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still after %s: %v", what, startTimeout, err)
		case <-time.After(50 * time.Millisecond): // checks read many things; there is no one event for them all
		}
	}
}
