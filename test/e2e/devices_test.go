package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/test/dradriver"
)

// toys publishes devices of a driver on the machine's node and runs the driver. It ends with the test. Containers with a device run
// hooks when they are made and when they are over, which say so in the file that is returned.
func (u *user) toys(driver string, devices ...string) (_ *dradriver.Driver, said string) {
	u.t.Helper()
	c := u.client()
	node := strings.TrimPrefix(strings.TrimSpace(u.kubectl("get", "nodes", "-o", "name")), "node/")
	dir, err := os.MkdirTemp("", "dra") // paths of sockets must be short
	if err != nil {
		u.t.Fatal(err)
	}
	const cdi = "/var/run/cdi"
	_, err = os.Stat(cdi)
	ours := os.IsNotExist(err) // nobody else uses it on this machine
	hook := filepath.Join(dir, "hook")
	// What a hook is given: the container's state, of which the bundle has the configuration.
	script := "#!/bin/sh\nread state\necho \"$1 $TOY $(echo $state | grep -c '\"bundle\"')\" >> " + hook + ".said\n"
	if err := os.WriteFile(hook, []byte(script), 0o700); err != nil {
		u.t.Fatal(err)
	}
	var hooks []map[string]any
	for _, name := range []string{"createRuntime", "poststop"} {
		hooks = append(hooks, map[string]any{"hookName": name, "path": hook, "args": []string{"hook", name}, "env": []string{"TOY=yes"}})
	}
	d, err := dradriver.Start(dradriver.Config{
		Hooks: hooks, Name: driver, Registry: filepath.Join(u.m.DataDir, "node", "plugins_registry"), Dir: dir, CDI: cdi,
		Claim: func(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
			return c.ResourceV1().ResourceClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	slice := dradriver.Slice(driver, node, devices...)
	if _, err := c.ResourceV1().ResourceSlices().Create(u.t.Context(), slice, metav1.CreateOptions{}); err != nil {
		u.t.Error(err)
	}
	u.t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			u.t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			u.t.Error(err)
		}
		if ours {
			if err := os.Remove(cdi); err != nil {
				u.t.Error(err)
			}
		}
		u.kubectl("delete", "--ignore-not-found", "resourceslice/"+slice.Name, "deviceclass/"+driver)
	})
	select {
	case st := <-d.Told():
		if !st.PluginRegistered {
			u.t.Fatalf("the driver isn't registered: %s", st.Error)
		}
	case <-time.After(patience):
		u.t.Fatal("the node doesn't register the driver")
	}
	return d, hook + ".said"
}

// TestDevices: a pod with a claim from a template gets a device, and the variable that its driver gives those who have it. A second pod waits, and runs when the first
// one's device is free again; nothing is left prepared in the end.
func TestDevices(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	driver := u.ns + ".example.com"
	d, said := u.toys(driver, "toy-0")
	user := func(name string) string {
		return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  resourceClaims: [{name: toy, resourceClaimTemplateName: toy}]
  containers:
  - {name: c, image: %s, command: [sh, -c, 'echo "have $TOY_DEVICES"; exec sleep 3600'], resources: {claims: [{name: toy}]}}
  - {name: without, image: %s, command: [sh, -c, 'echo "have <$TOY_DEVICES>"; exec sleep 3600']}
`, name, busybox, busybox)
	}
	u.apply(fmt.Sprintf(`apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: %[1]s}
spec: {selectors: [{cel: {expression: 'device.driver == "%[1]s"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: toy}
spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: %[1]s}}]}}}
`, driver) + user("first"))
	u.await("pod/first", "condition=Ready")
	u.says("have toy-0", "logs", "first", "-c", "c")
	u.says("have <>", "logs", "first", "-c", "without")
	u.says("have toy-0", "exec", "first", "-c", "c", "--", "sh", "-c", "echo have $TOY_DEVICES")
	u.apply(user("second"))
	u.says("cannot allocate all claims", "get", "pod", "second", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}`)
	if n := len(d.Prepared()); n != 1 {
		t.Errorf("%d claims are prepared", n)
	}
	u.kubectl("delete", "pod", "first", "--wait=false")
	u.await("pod/second", "condition=Ready")
	u.says("have toy-0", "logs", "second", "-c", "c")
	// The class stands for an extended resource too.
	u.apply(fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: third}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: %s, command: [sh, -c, 'echo "have $TOY_DEVICES"; exec sleep 3600'], resources: {limits: {deviceclass.resource.kubernetes.io/%s: 1}}}]
`, busybox, driver))
	u.says("cannot allocate all claims", "get", "pod", "third", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}`)
	u.kubectl("delete", "pod", "second")
	u.await("pod/third", "condition=Ready")
	u.says("have toy-0", "logs", "third")
	u.kubectl("delete", "pod", "third")
	// The pod is gone from the API only when its devices have been given back.
	if left, calls := d.Prepared(), d.Calls(); len(left) != 0 || len(calls) != 6 {
		t.Errorf("still prepared: %v; calls %v", left, calls)
	}
	// All containers that had the device are over.
	var hooked string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		data, err := os.ReadFile(said)
		if err != nil {
			t.Fatalf("no hook said anything: %v", err)
		}
		if hooked = string(data); strings.Count(hooked, "\n") == 6 {
			break
		}
	}
	if strings.Count(hooked, "createRuntime yes 1\n") != 3 || strings.Count(hooked, "poststop yes 1\n") != 3 {
		t.Errorf("hooks said\n%s", hooked)
	}
}
