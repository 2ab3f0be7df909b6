package node

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/celox/celox/internal/node/fakecri"
	"github.com/celox/celox/test/deviceplugin"
)

const toys = "example.com/toy"

// wantsToys is a pod whose container asks for a toy.
func wantsToys(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	return testPod(name, append([]func(*corev1.Pod){func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "OWN", Value: "pod"}, {Name: "ALSO", Value: "$(TOYS)"}}
		p.Spec.Containers[0].Command = []string{"play", "$(TOYS)"}
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{toys: resource.MustParse("1")}
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	}}, edit...)...)
}

// playroom is a node with a plugin that has toys.
func playroom(t *testing.T, ids ...string) (*rig, *deviceplugin.Plugin) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.adjust = func(c *Config) { c.DevicePluginDir = dir }
	r.follow()
	appears(t, dir, "kubelet.sock", r.startReal)
	p, err := deviceplugin.Start(deviceplugin.Config{Resource: toys, Dir: dir, Allocate: func(_ context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
		return &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"TOYS": strings.Join(ids, ","), "OWN": "plugin"}, Annotations: map[string]string{"example.com/toys": "yes", "io.kubernetes.container.hash": "nonsense"},
			Mounts:  []*pluginapi.Mount{{ContainerPath: "/toys", HostPath: "/srv/toys", ReadOnly: true}},
			Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/toy", HostPath: "/dev/zero", Permissions: "r"}}, CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/toy=" + ids[0]}},
		}, nil
	}}, deviceplugin.Healthy(ids...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		r.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := <-p.Told(); err != nil {
		t.Fatal(err)
	}
	r.nodeHas(len(ids), len(ids))
	return r, p
}

func (r *rig) nodeHas(capacity, allocatable int) {
	r.t.Helper()
	r.comes("toys of the node", func() string {
		n, err := r.client.CoreV1().Nodes().Get(r.t.Context(), testNode, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		c, a := n.Status.Capacity[toys], n.Status.Allocatable[toys]
		return fmt.Sprint(c.String(), " ", a.String())
	}, fmt.Sprint(capacity, " ", allocatable))
}

func (r *rig) createReal(pod *corev1.Pod) {
	r.t.Helper()
	if _, err := r.client.CoreV1().Pods("default").Create(r.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// shows waits for a pod's phase, with the health of what its container has.
func (r *rig) shows(name, want string) {
	r.t.Helper()
	r.comes("pod "+name, func() string {
		s := r.get(name).Status
		got := string(s.Phase)
		for _, c := range s.ContainerStatuses {
			for _, one := range c.AllocatedResourcesStatus {
				for _, h := range one.Resources {
					got += fmt.Sprint(", ", one.Name, " ", h.ResourceID, " ", h.Health)
				}
			}
		}
		return got
	}, want)
}

// TestPluggedDevices: what a plugin gives comes into the container and into the status of pod and node; who comes too late is refused; what a pod had another gets when it is over.
func TestPluggedDevices(t *testing.T) {
	r, p := playroom(t, "a")
	r.createReal(wantsToys("first"))
	r.shows("first", "Running, example.com/toy a Healthy")
	c := r.runtime.Config(r.runtime.Container("first", "c"))
	env := map[string]string{}
	for _, v := range c.Envs {
		env[v.Key] += string(v.Value)
	}
	if env["TOYS"] != "a" || env["OWN"] != "pod" || env["ALSO"] != "$(TOYS)" || fmt.Sprint(c.Command) != "[play a]" {
		t.Errorf("variables %v, command %v", env, c.Command)
	}
	if c.Annotations["example.com/toys"] != "yes" || c.Annotations["io.kubernetes.container.hash"] == "nonsense" {
		t.Errorf("annotations %v", c.Annotations)
	}
	if d := c.Devices; len(d) != 1 || d[0].ContainerPath != "/dev/toy" || d[0].HostPath != "/dev/zero" || d[0].Permissions != "r" {
		t.Errorf("devices %v", d)
	}
	if m := c.Mounts[0]; m.ContainerPath != "/toys" || m.HostPath != "/srv/toys" || !m.Readonly {
		t.Errorf("mounts %v", c.Mounts)
	}
	if d := c.CDIDevices; len(d) != 1 || d[0].Name != "example.com/toy=a" {
		t.Errorf("CDI devices %v", d)
	}

	r.createReal(wantsToys("late"))
	r.shows("late", "Failed")
	const message = "Allocate failed due to requested number of devices unavailable for example.com/toy. Requested: 1, Available: 0, which is unexpected"
	if s := r.get("late").Status; s.Reason != "UnexpectedAdmissionError" || s.Message != "Pod was rejected: "+message {
		t.Errorf("%s: %s", s.Reason, s.Message)
	}
	r.comes("the event", func() string { return strings.Join(r.events("UnexpectedAdmissionError"), ", ") }, message)

	p.Tell(&pluginapi.Device{ID: "a", Health: pluginapi.Unhealthy})
	r.shows("first", "Running, example.com/toy a Unhealthy")
	r.nodeHas(1, 0)
	r.runtime.Finish(r.runtime.Container("first", "c"), fakecri.Exit{Code: 1})
	r.shows("first", "Failed, example.com/toy a Unhealthy")
	p.Tell(deviceplugin.Healthy("a")...)
	r.nodeHas(1, 1)
	r.createReal(wantsToys("next"))
	r.shows("next", "Running, example.com/toy a Healthy")
	r.shows("first", "Failed, example.com/toy a Unhealthy")
}

// TestPluggedAfterARestart: a pod that runs goes on while the plugin is away, also when its container starts again, and what it has stays its own.
func TestPluggedAfterARestart(t *testing.T) {
	r, p := playroom(t, "a", "b")
	r.createReal(wantsToys("first", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways }))
	r.shows("first", "Running, example.com/toy a Healthy")
	before := r.runtime.Container("first", "c")
	r.stop()
	p.Stop()
	r.startReal()
	r.nodeHas(0, 0)
	r.shows("first", "Running, example.com/toy a Unknown")
	if now := r.runtime.Container("first", "c"); now != before {
		t.Errorf("container %s became %s", before, now)
	}
	r.runtime.Finish(before, fakecri.Exit{Code: 1})
	r.comes("another container", func() string {
		c := r.runtime.Config(r.runtime.Container("first", "c"))
		return fmt.Sprint(r.runtime.Container("first", "c") != before, " ", c != nil && len(c.Devices) == 1)
	}, "true true")
	again, err := deviceplugin.Start(deviceplugin.Config{Resource: toys, Dir: r.node.cfg.DevicePluginDir}, deviceplugin.Healthy("a", "b")...)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	r.shows("first", "Running, example.com/toy a Healthy")
	r.nodeHas(2, 2)
	r.createReal(wantsToys("second"))
	r.shows("second", "Running, example.com/toy b Healthy")
}

// TestPluggedGoesFirst: a pod that comes in the place of one that was deleted at once waits for its end.
func TestPluggedGoesFirst(t *testing.T) {
	r, _ := playroom(t, "a")
	gone := make(chan struct{})
	noticed := sync.OnceFunc(func() { close(gone) }) // by the node, that the first pod is gone
	r.runtime.Stop = func(*runtimeapi.ContainerConfig) (time.Duration, fakecri.Exit) {
		noticed()
		return 100 * time.Millisecond, fakecri.Exit{Code: 143}
	}
	r.createReal(wantsToys("first"))
	r.shows("first", "Running, example.com/toy a Healthy")
	zero := int64(0)
	if err := r.client.CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	<-gone
	r.createReal(wantsToys("second"))
	r.shows("second", "Running, example.com/toy a Healthy")
}
