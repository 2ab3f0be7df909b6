package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/celox/celox/test/image"
)

const (
	busybox  = "busybox:1"
	nodeName = "vm"
	// patience bounds how long something may take that has to happen. It is no measurement.
	patience = 2 * time.Minute
)

// shared is the machine that all tests use, one after the other. TestMain sets it before any test runs, and again when the first stood still.
var shared *Machine

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// run runs all tests, and once more from the beginning on a new machine when the emulator stood still.
func run(m *testing.M) int {
	if flag.Lookup("test.list").Value.String() != "" {
		return m.Run()
	}
	code, still := onMachine(m)
	if code != 0 && still {
		fmt.Fprintln(os.Stderr, "vm: the emulator stood still (the machine's pulse stopped), which says nothing of celox: all tests begin again on a new machine, once")
		code, _ = onMachine(m)
	}
	return code
}

// onMachine runs all tests on a machine of their own. Still tells of a machine that stood still.
func onMachine(m *testing.M) (code int, still bool) {
	var err error
	if shared, err = furnished(); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		return 1, errors.Is(err, errStill)
	}
	defer func() {
		if code != 0 {
			said, err := shared.Sh("tail -n 60 /var/log/celox.log /var/lib/celox/runtime/holder.log 2>/dev/null; dmesg | tail -n 40")
			still = errors.Is(err, errStill)
			fmt.Fprintf(os.Stderr, "vm: in the machine:\n%s\n%s\n", said, shared.Console())
		}
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "vm:", err)
			code = 1
		}
	}()
	if err := start(shared); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		return 1, false
	}
	if out, err := shared.Sh("celox image import --data-dir " + dataDir + " /root/busybox.tar"); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err, out)
		return 1, false
	}
	return m.Run(), false
}

// furnished boots a machine that has celox and an image.
func furnished() (*Machine, error) {
	bin, kernelDir := os.Getenv("CELOX_BIN"), os.Getenv("CELOX_VM_KERNEL")
	if bin == "" || kernelDir == "" {
		return nil, errors.New("CELOX_BIN and CELOX_VM_KERNEL must name the binary and an unpacked kernel package: run `make test-vm`")
	}
	kernel, err := OpenKernel(kernelDir)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "celox-vm-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	archive := filepath.Join(dir, "busybox.tar")
	img, err := image.Busybox("sh")
	if err != nil {
		return nil, err
	}
	f, err := os.Create(archive)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(image.WriteArchive(f, map[string]v1.Image{busybox: img}), f.Close()); err != nil {
		return nil, err
	}
	mesh := filepath.Join(dir, "mesh.test")
	build := exec.Command("go", "test", "-c", "-trimpath", "-o", mesh, "github.com/celox/celox/internal/network/mesh")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the tests of the mesh: %w\n%s", err, out)
	}
	return Boot(kernel, map[string]string{"bin/celox": bin, "root/busybox.tar": archive, "root/mesh.test": mesh})
}

// start starts celox in the machine and waits until its node is Ready.
func start(m *Machine) error {
	_, err := m.Sh(`
: >/run/started
celox server --data-dir ` + dataDir + ` --node-name ` + nodeName + ` >/run/said 2>&1 </dev/null &
echo $! >/run/celox.pid
for i in $(seq 900); do
  grep -q ' is Ready after ' /run/said && break
  kill -0 $(cat /run/celox.pid) 2>/dev/null || break
  sleep 0.1
done
cat /run/said >>/var/log/celox.log
grep -q ' is Ready after ' /run/said || { cat /run/said; exit 1; }
`)
	if err != nil {
		return fmt.Errorf("celox in the machine: %w", err)
	}
	return nil
}

// client is client-go, as the administrator.
func client(t *testing.T) (*rest.Config, kubernetes.Interface) {
	t.Helper()
	cfg, err := shared.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

// sh runs a script in the machine that has to succeed.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := shared.Sh(script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// wait calls check until it returns nil, or fails the test with its last error.
func wait(t *testing.T, what string, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still after %s: %v", what, patience, err)
		case <-time.After(100 * time.Millisecond): // what is awaited has many causes and no common event
		}
	}
}

// create makes a pod that is deleted when the test ends.
func create(t *testing.T, c kubernetes.Interface, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now := int64(0)
		_ = c.CoreV1().Pods("default").Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // may be gone
	})
	return made
}

// running waits until all containers of the pod run.
func running(t *testing.T, c kubernetes.Interface, name string) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	wait(t, "pod "+name+" runs", func(ctx context.Context) (err error) {
		if pod, err = c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Running == nil {
				return fmt.Errorf("container %s: %+v", s.Name, s.State)
			}
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return nil
	})
	return pod
}
