package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/celox/celox/test/e2e/machine"
	"github.com/celox/celox/test/image"
)

// controlPlaneOnly are the flags of a server that starts quickly because it runs no containers.
var controlPlaneOnly = []string{"--disable-node"}

// startMachine makes a machine of the test's own and starts a server there; with a node it has the busybox image.
func startMachine(t *testing.T, args ...string) (*machine.Machine, kubernetes.Interface) {
	t.Helper()
	m := machine.ForTest(t)
	return m, startOn(t, m, args...)
}

// startOn starts a server and returns a client of it.
func startOn(t *testing.T, m *machine.Machine, args ...string) kubernetes.Interface {
	t.Helper()
	if err := m.Start(args...); err != nil {
		t.Fatal(err)
	}
	c, err := m.Client()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// giveBusybox imports the busybox image.
func giveBusybox(t *testing.T, m *machine.Machine) {
	t.Helper()
	img, err := image.Busybox("sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Import(busybox, img); err != nil {
		t.Fatal(err)
	}
}

// shellPod is a pod that runs a script in its container c. Host, unless empty, is a directory of this machine that it sees as /host.
func shellPod(name, script, host string) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers:                    []corev1.Container{{Name: "c", Image: busybox, Command: []string{"sh", "-c", script}}},
	}}
	if host != "" {
		p.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	}
	return p
}

// counting is a script that prints 0, 1, 2 and so on, and ends well as soon as it is asked to.
const counting = `trap 'exit 0' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done`

// untilFile is a script that waits for /host/NAME and ends with a code.
func untilFile(name string, code int) string {
	return fmt.Sprintf(`trap 'exit 0' TERM; while [ ! -e /host/%s ]; do sleep 0.05; done; exit %d`, name, code)
}

// runPod creates a pod and waits until its container runs. It returns the pod as it is then.
func runPod(t *testing.T, c kubernetes.Interface, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	if p.Namespace == "default" {
		waitServiceAccount(t, c)
	}
	got, err := c.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return waitPod(t, c, got, "run", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil
	})
}

// waitServiceAccount waits until pods can be created in the namespace default of a new cluster.
func waitServiceAccount(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	machine.Wait(t, "service account default", func(ctx context.Context) error {
		_, err := c.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// waitPod waits until a pod is as wanted.
func waitPod(t *testing.T, c kubernetes.Interface, p *corev1.Pod, what string, is func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	machine.Wait(t, fmt.Sprintf("pod %s to %s", p.Name, what), func(ctx context.Context) error {
		got, err := c.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if last = got; !is(got) {
			return fmt.Errorf("%s %+v", got.Status.Phase, got.Status.ContainerStatuses)
		}
		return nil
	})
	return last
}

// waitEnd waits until the pod's only container has ended, and returns how.
func waitEnd(t *testing.T, c kubernetes.Interface, p *corev1.Pod) *corev1.ContainerStateTerminated {
	t.Helper()
	p = waitPod(t, c, p, "end", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	return p.Status.ContainerStatuses[0].State.Terminated
}

// waitReady waits until the machine's node is Ready.
func waitReady(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	machine.Wait(t, "the node to be Ready", func(ctx context.Context) error {
		nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
					return nil
				}
			}
		}
		return errors.New("not Ready")
	})
}

// counted reads the logs of a counting container and fails the test if a number is missing, double or broken, but for as many that may be lost. It returns how
// many the container has printed.
func counted(t *testing.T, c kubernetes.Interface, p *corev1.Pod, lost int) int {
	t.Helper()
	data, err := c.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); n++ {
		got, err := strconv.Atoi(lines.Text())
		if err != nil || got < n || got > n+lost {
			t.Fatalf("the log has %q where %d should be", lines.Text(), n)
		}
		lost -= got - n
		n = got
	}
	return n
}

// countsOn waits until a counting container has printed some more than n numbers, all of which are in its log.
func countsOn(t *testing.T, c kubernetes.Interface, p *corev1.Pod, n int) int {
	t.Helper()
	return countsOnBut(t, c, p, n, 0)
}

// countsOnBut is countsOn where a few numbers may be lost: a holder that is killed takes with it what it had read in that moment and not yet written, which is
// the one line that the container prints at a time.
func countsOnBut(t *testing.T, c kubernetes.Interface, p *corev1.Pod, n, lost int) int {
	t.Helper()
	machine.Wait(t, "the counter to go on", func(context.Context) error {
		if got := counted(t, c, p, lost); got < n+5 {
			return fmt.Errorf("%d numbers, %d before", got, n)
		}
		return nil
	})
	return counted(t, c, p, lost)
}

// countsAlone waits until the log file of a counting container grows while no server runs.
func countsAlone(t *testing.T, m *machine.Machine, p *corev1.Pod) {
	t.Helper()
	pattern := filepath.Join(m.DataDir, "log", "pods", p.Namespace+"_"+p.Name+"_"+string(p.UID), "c", "0.log")
	lines := func() int {
		data, err := os.ReadFile(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(data, []byte("\n"))
	}
	before := lines()
	machine.Wait(t, "the container to go on without celox", func(context.Context) error {
		if got := lines(); got < before+5 {
			return fmt.Errorf("%d lines, %d before", got, before)
		}
		return nil
	})
}

// sameContainer fails the test unless the pod has the very container that it had, never restarted.
func sameContainer(t *testing.T, c kubernetes.Interface, p *corev1.Pod) {
	t.Helper()
	got, err := c.CoreV1().Pods(p.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was, is := p.Status.ContainerStatuses[0], got.Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != 0 || is.State.Running == nil || !is.State.Running.StartedAt.Equal(&was.State.Running.StartedAt) {
		t.Errorf("pod %s had the container\n%+v\nand has\n%+v", p.Name, was, is)
	}
	if got.Status.PodIP != p.Status.PodIP {
		t.Errorf("pod %s had the address %s and has %s", p.Name, p.Status.PodIP, got.Status.PodIP)
	}
}

// holder is the process that holds the machine's containers.
func holder(t *testing.T, m *machine.Machine) int {
	t.Helper()
	pid, err := findHolder(m)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func findHolder(m *machine.Machine) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(data), "\x00")
		if len(args) > 3 && args[1] == "hold" && strings.HasPrefix(args[3], m.DataDir+"/") {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, errors.New("no process holds the containers")
}

// killHolder kills the process that holds the machine's containers and waits until it is gone.
func killHolder(t *testing.T, m *machine.Machine) {
	t.Helper()
	pid := holder(t, m)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	machine.Wait(t, "the holder to be gone", func(context.Context) error {
		if now, err := findHolder(m); err == nil && now == pid {
			return errors.New("still there")
		}
		return nil
	})
}

func touch(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestContainersOutliveTheServer(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t)
	giveBusybox(t, m)
	host := m.Dir(t)
	counter := runPod(t, c, shellPod("counter", counting, ""))
	never := func(name string, code int) *corev1.Pod {
		p := shellPod(name, untilFile(name, code), host)
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		return runPod(t, c, p)
	}
	ends := map[syscall.Signal]*corev1.Pod{syscall.SIGTERM: never("ends-1", 3), syscall.SIGKILL: never("ends-2", 0)}
	again := runPod(t, c, shellPod("again", untilFile("again", 4), host))
	stays := runPod(t, c, shellPod("stays", untilFile("stays", 0), host))
	n := countsOn(t, c, counter, 0)

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := m.Signal(sig); err != nil {
			t.Fatal(err)
		}
		countsAlone(t, m, counter)
		touch(t, filepath.Join(host, ends[sig].Name)) // this one ends while nobody looks
		countsAlone(t, m, counter)
		c = startOn(t, m)
		waitReady(t, c)
		sameContainer(t, c, counter)
		sameContainer(t, c, stays)
		n = countsOn(t, c, counter, n)
		how := waitEnd(t, c, ends[sig])
		if want := map[syscall.Signal]int32{syscall.SIGTERM: 3, syscall.SIGKILL: 0}[sig]; how.ExitCode != want {
			t.Errorf("after %s: the container that ended meanwhile: %+v, want exit code %d", sig, how, want)
		}
		out, err := m.Kubectl(nil, "exec", "counter", "--", "echo", "hello")
		if err != nil || out != "hello\n" {
			t.Errorf("after %s: exec: %q, %v", sig, out, err)
		}
	}
	// A container that had been picked up is restarted by its policy when it ends, and only then.
	sameContainer(t, c, again)
	touch(t, filepath.Join(host, "again"))
	waitPod(t, c, again, "restart", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return s.RestartCount > 0 && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 4
	})
	// A pod that is deleted while no server runs is the successor's to end.
	for _, p := range []*corev1.Pod{counter, stays, again} {
		if err := c.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m)
	machine.Wait(t, "the deleted pods to go", func(ctx context.Context) error {
		list, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.DeletionTimestamp != nil || p.Name == "counter" {
				return fmt.Errorf("%s is there", p.Name)
			}
		}
		return nil
	})
}

func TestHolderIsKilled(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t)
	giveBusybox(t, m)
	host := m.Dir(t)
	counter := runPod(t, c, shellPod("counter", counting, ""))
	ends := shellPod("ends", untilFile("ends", 7), host)
	ends.Spec.RestartPolicy = corev1.RestartPolicyNever
	ends = runPod(t, c, ends)
	n := countsOn(t, c, counter, 0)

	killHolder(t, m) // while the server runs
	n = countsOnBut(t, c, counter, n, 1)
	sameContainer(t, c, counter)
	machine.Wait(t, "exec to work", func(context.Context) error {
		out, err := m.Kubectl(nil, "exec", "counter", "--", "echo", "hello")
		if err == nil && out != "hello\n" {
			err = fmt.Errorf("it printed %q", out)
		}
		return err
	})
	touch(t, filepath.Join(host, "ends"))
	if how := waitEnd(t, c, ends); how.ExitCode != 7 {
		t.Errorf("the container that had been adopted ended: %+v, want exit code 7", how)
	}
	runPod(t, c, shellPod("after", counting, ""))

	// Both at once: only the containers are left.
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killHolder(t, m)
	c = startOn(t, m)
	waitReady(t, c)
	sameContainer(t, c, counter)
	countsOnBut(t, c, counter, n, 2)
}

// TestHolderIsUpgraded starts a celox whose runtime program is another one on the containers of its predecessor.
func TestHolderIsUpgraded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // before the machine, so that it goes after it
	m, c := startMachine(t)
	giveBusybox(t, m)
	counter := runPod(t, c, shellPod("counter", counting, ""))
	n := countsOn(t, c, counter, 0)
	before := holder(t, m)
	exe := func() string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", holder(t, m)))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}

	// Another version: the same, but for what it says when somebody starts it by hand.
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	inner := exe()
	whole = withRuntime(t, whole, inner, strings.Replace(inner, "celox-runtime holds the containers of a Celox node", strings.Repeat(" ", 50), 1))
	next := filepath.Join(dir, "celox")
	if err := os.WriteFile(next, whole, 0o700); err != nil {
		t.Fatal(err)
	}
	m.Upgrade(next)
	c = startOn(t, m)
	sameContainer(t, c, counter)
	countsOn(t, c, counter, n)
	if now := holder(t, m); now != before {
		t.Errorf("the holder was process %d and is %d: the containers have lost their parent", before, now)
	}
	if exe() == inner {
		t.Error("the holder still is the old program")
	}
	runPod(t, c, shellPod("after", counting, ""))
}

// withRuntime puts another program in the place of the one that a celox carries, compressed and with its digest. It must not be larger.
func withRuntime(t *testing.T, celox []byte, from, to string) []byte {
	t.Helper()
	packed, err := os.ReadFile("../../internal/runtime/bundle/bin/celox-runtime.zst")
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	repacked := enc.EncodeAll([]byte(to), nil)
	const skippable = 8 // the header of a frame that decoders skip
	room := len(packed) - len(repacked) - skippable
	if from == to || room < 0 || !bytes.Contains(celox, packed) {
		t.Fatalf("the other program is the same, or larger by %d bytes, or this is another celox than the one that was built here", -room)
	}
	repacked = binary.LittleEndian.AppendUint32(repacked, 0x184D2A50)
	repacked = binary.LittleEndian.AppendUint32(repacked, uint32(room))
	repacked = append(repacked, make([]byte, room)...)
	digest := func(program string) []byte { return fmt.Appendf(nil, "%x", sha256.Sum256([]byte(program))) }
	celox = bytes.Replace(celox, packed, repacked, 1)
	return bytes.Replace(celox, digest(from), digest(to), 1)
}

func TestTwoClusters(t *testing.T) {
	t.Parallel()
	var machines [2]*machine.Machine
	for i := range machines {
		machines[i] = machine.ForTest(t)
	}
	started := make(chan error)
	for _, m := range machines {
		go func() { started <- m.Start() }()
	}
	if err := errors.Join(<-started, <-started); err != nil {
		t.Fatal(err)
	}
	var counters [2]*corev1.Pod
	var clients [2]kubernetes.Interface
	for i, m := range machines {
		c, err := m.Client()
		if err != nil {
			t.Fatal(err)
		}
		giveBusybox(t, m)
		clients[i], counters[i] = c, runPod(t, c, shellPod("counter", counting, ""))
	}
	if counters[0].UID == counters[1].UID {
		t.Fatal("both clients see one cluster")
	}
	n := countsOn(t, clients[1], counters[1], 0)

	// the one is refused while it runs
	if _, err := machines[0].Celox("reset", "--yes"); err == nil || !strings.Contains(err.Error(), "in use by a running celox (pid "+strconv.Itoa(machines[0].Pid())+")") {
		t.Errorf("reset of a running cluster: %v", err)
	}
	if err := machines[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := machines[0].Celox("reset", "--yes"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(machines[0].DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory after the reset: %v", err)
	}
	if out, err := machines[0].Celox("reset", "--yes"); err != nil || !strings.HasPrefix(out, "nothing to remove: "+machines[0].DataDir) {
		t.Errorf("a second reset: %v, it says %q", err, out)
	}

	// the other noticed nothing
	sameContainer(t, clients[1], counters[1])
	countsOn(t, clients[1], counters[1], n)
	res, err := clients[1].CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(res.Items) != 1 {
		t.Errorf("nodes of the other: %v, %v", res, err)
	}
	runPod(t, clients[1], shellPod("after", counting, ""))
}

func TestResetAfterKill(t *testing.T) {
	t.Parallel()
	m, c := startMachine(t)
	giveBusybox(t, m)
	p := shellPod("pod", counting, "")
	p.Spec.Volumes = []corev1.Volume{
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}, {Name: "disk", MountPath: "/disk"}}
	// This one does not want to end.
	p.Spec.Containers[0].Command = []string{"sh", "-c", `trap '' TERM; while true; do sleep 1; done`}
	runPod(t, c, p)
	ports := shellPod("ports", counting, "")
	ports.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
	runPod(t, c, ports)
	if err := m.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killHolder(t, m)

	question := "Remove the cluster in " + m.DataDir + " with all its data? Type yes: "
	for _, answer := range []string{"", "no\n", "y\n"} {
		bin, err := machine.Binary()
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Run(strings.NewReader(answer), bin, "reset")
		if err == nil || out != question || !strings.Contains(err.Error(), "nothing was removed") {
			t.Errorf("answer %q: %v, it says %q", answer, err, out)
		}
	}
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Run(strings.NewReader("yes\n"), bin, "reset")
	if err != nil || !strings.HasPrefix(out, question) || !strings.HasSuffix(out, "done\n") {
		t.Errorf("answer yes: %v, it says %q", err, out)
	}
	// The end of the test sees whether anything was left.
}

func TestResetRefusesOtherDirectories(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "precious")
	touch(t, file)
	_, err := m.Celox("reset", "--yes", "--data-dir", dir)
	if err == nil || !strings.Contains(err.Error(), dir+" is no data directory of celox") {
		t.Errorf("reset of a directory that is no cluster's: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestCRISocket asks the runtime the way crictl does.
func TestCRISocket(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	p := shellPod("cri", counting, "")
	p.Namespace = u.ns
	p = runPod(t, u.client(), p)

	endpoint := "unix://" + filepath.Join(u.m.DataDir, "run", "cri.sock")
	rt, err := criclient.NewRemoteRuntimeService(t.Context(), endpoint, patience, noop.NewTracerProvider(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rt.Close(context.Background()) }() // nothing is under way
	images, err := criclient.NewRemoteImageService(t.Context(), endpoint, patience, noop.NewTracerProvider(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = images.Close(context.Background()) }() // as above

	ctx := t.Context()
	version, err := rt.Version(ctx, "v1")
	if err != nil || version.RuntimeApiVersion != "v1" || version.RuntimeName == "" || version.RuntimeVersion == "" {
		t.Errorf("version: %v, %v", version, err)
	}
	status, err := rt.Status(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, cond := range status.Status.Conditions {
		if !cond.Status {
			t.Errorf("runtime condition: %v", cond)
		}
	}
	labels := map[string]string{"io.kubernetes.pod.uid": string(p.UID)}
	sandboxes, err := rt.ListPodSandbox(ctx, &cri.PodSandboxFilter{LabelSelector: labels})
	if err != nil || len(sandboxes) != 1 || sandboxes[0].State != cri.PodSandboxState_SANDBOX_READY || sandboxes[0].Metadata.Name != "cri" || sandboxes[0].Metadata.Namespace != u.ns {
		t.Fatalf("sandboxes: %v, %v", sandboxes, err)
	}
	sandbox, err := rt.PodSandboxStatus(ctx, sandboxes[0].Id, false)
	if err != nil || sandbox.Status.Network.GetIp() != p.Status.PodIP {
		t.Errorf("status of the sandbox: %v, %v, want the address %s", sandbox, err, p.Status.PodIP)
	}
	containers, err := rt.ListContainers(ctx, &cri.ContainerFilter{PodSandboxId: sandboxes[0].Id})
	if err != nil || len(containers) != 1 || containers[0].State != cri.ContainerState_CONTAINER_RUNNING || containers[0].Metadata.Name != "c" {
		t.Fatalf("containers: %v, %v", containers, err)
	}
	id := containers[0].Id
	if !strings.HasSuffix(p.Status.ContainerStatuses[0].ContainerID, "://"+id) {
		t.Errorf("container %s is %s in the API", id, p.Status.ContainerStatuses[0].ContainerID)
	}
	out, errOut, err := rt.ExecSync(ctx, id, []string{"sh", "-c", "echo out; echo err >&2"}, patience)
	if err != nil || string(out) != "out\n" || string(errOut) != "err\n" {
		t.Errorf("exec: %q, %q, %v", out, errOut, err)
	}
	var exit interface{ ExitStatus() int }
	if _, _, err := rt.ExecSync(ctx, id, []string{"sh", "-c", "exit 5"}, patience); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("exec that fails: %v", err)
	}
	stats, err := rt.ContainerStats(ctx, id)
	if err != nil || stats.Memory.GetWorkingSetBytes().GetValue() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	list, err := images.ListImages(ctx, &cri.ImageFilter{Image: &cri.ImageSpec{Image: busybox}})
	if err != nil || len(list) != 1 || len(list[0].RepoTags) == 0 || list[0].Size == 0 {
		t.Errorf("images: %v, %v", list, err)
	}
	info, err := images.ImageFsInfo(ctx)
	if err != nil || len(info.ImageFilesystems) == 0 || info.ImageFilesystems[0].UsedBytes.GetValue() == 0 {
		t.Errorf("image file system: %v, %v", info, err)
	}
	if _, err := rt.ContainerStatus(ctx, "nonsense", false); err == nil {
		t.Error("the status of a container that is none")
	}
}

func TestLimitsAreCgroupLimits(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	c := u.client()
	p := shellPod("limits", "trap 'exit 0' TERM; while true; do sleep 0.1; done; echo "+u.ns, "")
	p.Namespace = u.ns
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
	}
	runPod(t, c, p)
	dirs := cgroupsOf(t, "echo "+u.ns)
	v1 := map[string]string{
		"memory/memory.limit_in_bytes": "67108864", "cpu/cpu.shares": "256", "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
	}
	v2 := map[string]string{"/memory.max": "67108864", "/cpu.max": "50000 100000"}
	want := v1
	if dirs["memory"] == "" {
		want = v2
	}
	for file, value := range want {
		controller, name, _ := strings.Cut(file, "/")
		if dirs[controller] == "" {
			t.Errorf("the container is in no cgroup of %q: %v", controller, dirs)
			continue
		}
		data, err := os.ReadFile(filepath.Join(dirs[controller], name))
		if err != nil || strings.TrimSpace(string(data)) != value {
			t.Errorf("%s: %q, %v, want %s", file, data, err, value)
		}
	}
	// The container, its pod, its class and all below the cluster's own cgroup, in each hierarchy that counts processes.
	pids := dirs["pids"]
	if pids == "" {
		pids = dirs[""]
	}
	if _, err := os.Stat(filepath.Join(pids, "pids.max")); err != nil || !strings.Contains(pids, "/celox-") || !strings.Contains(pids, "burstable") {
		t.Errorf("the container's cgroup %s: %v", pids, err)
	}

	// More memory than allowed ends the container, with upstream's word for it.
	hog := shellPod("hog", "", "")
	hog.Namespace = u.ns
	hog.Spec.RestartPolicy = corev1.RestartPolicyNever
	hog.Spec.Containers[0].Command = []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"}
	hog.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	got, err := c.CoreV1().Pods(u.ns).Create(t.Context(), hog, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if how := waitEnd(t, c, got); how.Reason != "OOMKilled" || how.ExitCode != 137 {
		t.Errorf("a container that used too much memory: %+v", how)
	}
}

// cgroupsOf finds the process whose command line holds a mark, and its cgroup directories by controller; that of cgroup v2 is "".
func cgroupsOf(t *testing.T, mark string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err != nil || !bytes.Contains(data, []byte(mark)) {
			continue
		}
		groups, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup"))
		if err != nil {
			continue
		}
		dirs := map[string]string{}
		for line := range strings.Lines(string(groups)) {
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			for controller := range strings.SplitSeq(fields[1], ",") {
				dirs[controller] = filepath.Join("/sys/fs/cgroup", controller, fields[2])
			}
		}
		return dirs
	}
	t.Fatalf("no process has %q in its command line", mark)
	return nil
}

// eventually bounds what a test does in goroutines of its own.
func eventually(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}
