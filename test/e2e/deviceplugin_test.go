package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/celox/celox/test/deviceplugin"
	"github.com/celox/celox/test/e2e/machine"
)

// TestDevicePlugin: a plugin's devices are counted, given to containers as files that they may use as far as the plugin says, shown to who asks for them, and kept over a restart of the node. The scheduler
// waits for a free one.
func TestDevicePlugin(t *testing.T) {
	t.Parallel()
	m := machine.ForTest(t)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	giveBusybox(t, m)
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{t: t, m: m, command: []string{bin, "kubectl"}, ns: "default"}

	const resource = "example.com/zero"
	dir := m.Dir(t)
	p, err := deviceplugin.Start(deviceplugin.Config{
		Resource: resource, Dir: filepath.Join(m.DataDir, "node", "device-plugins"), PreStart: true,
		Allocate: func(_ context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
			out := &pluginapi.ContainerAllocateResponse{
				Envs: map[string]string{"ZEROES": strings.Join(ids, ",")}, Mounts: []*pluginapi.Mount{{ContainerPath: "/zeroes", HostPath: dir, ReadOnly: true}},
			}
			// Twins of devices of the machine: one that every container may use, and one that none may without a rule for it.
			for _, twin := range []struct {
				name  string
				minor uint32
			}{{ids[0], 5}, {"kmsg-0", 11}} {
				file := filepath.Join(dir, twin.name)
				if err := unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(1, twin.minor))); err != nil && !os.IsExist(err) {
					return nil, err
				}
				out.Devices = append(out.Devices, &pluginapi.DeviceSpec{ContainerPath: "/dev/" + twin.name, HostPath: file, Permissions: "w"})
			}
			return out, nil
		},
	}, deviceplugin.Healthy("zero-0")...)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	registered := func() {
		t.Helper()
		select {
		case err := <-p.Told():
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("the node doesn't register the plugin")
		}
	}
	registered()
	counts := func(want string) {
		t.Helper()
		u.says(want, "get", "nodes", "-o", `jsonpath={range .items[*]}{.status.capacity.example\.com/zero} {.status.allocatable.example\.com/zero}.{end}`)
	}
	counts("1 1.")

	asks := func(name string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    command: [sh, -c, 'exec 2>&1; echo "have $ZEROES: $(head -c 2 /dev/$ZEROES | od -An -tx1)," $(ls /zeroes); (: >/dev/kmsg-0) && echo written; (: </dev/kmsg-0); exec sleep 3600']
    resources: {limits: {%s: 1}}
`, name, busybox, resource)
	}
	u.apply(asks("first"))
	u.await("pod/first", "condition=Ready")
	u.says("have zero-0:  00 00, kmsg-0 zero-0\nwritten\nsh: can't open /dev/kmsg-0: Operation not permitted\n", "logs", "first")
	health := `jsonpath={.status.containerStatuses[0].allocatedResourcesStatus}`
	u.says(`[{"name":"example.com/zero","resources":[{"health":"Healthy","resourceID":"zero-0"}]}]`, "get", "pod", "first", "-o", health)
	u.apply(asks("second"))
	u.says("Insufficient example.com/zero", "get", "pod", "second", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}`)

	conn, err := grpc.NewClient("unix://"+filepath.Join(m.DataDir, "node", "pod-resources", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := podresourcesapi.NewPodResourcesListerClient(conn).Get(t.Context(), &podresourcesapi.GetPodResourcesRequest{PodNamespace: "default", PodName: "first"})
	if d := got.GetPodResources().GetContainers(); err != nil || len(d) != 1 || len(d[0].Devices) != 1 || d[0].Devices[0].ResourceName != resource || d[0].Devices[0].DeviceIds[0] != "zero-0" {
		t.Errorf("who asks for the devices of the pod is told %v, %v", got, err)
	}

	// The node starts again: the plugin sees that and registers again, and the pod runs on.
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	registered()
	counts("1 1.")
	u.says("0 true", "get", "pod", "first", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
	u.kubectl("delete", "pod", "first")
	u.await("pod/second", "condition=Ready")
	u.says("have zero-0:  00 00", "logs", "second")

	p.Stop()
	counts("1 0.")
	u.says("Unknown", "get", "pod", "second", "-o", health)
	if got, want := fmt.Sprint(p.Calls()), "[allocate [zero-0] start [zero-0] allocate [zero-0] start [zero-0]]"; got != want {
		t.Errorf("calls %s, want %s", got, want)
	}
}
