package deviceplugin

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// answer is what a plugin said that a container gets with some devices. The fields are written to the file.
type answer struct {
	Env         map[string]string `json:"env,omitempty"`
	Mounts      []mount           `json:"mounts,omitempty"`
	Files       []file            `json:"files,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	CDI         []string          `json:"cdi,omitempty"`
}

type mount struct {
	To       string `json:"to"` // in the container
	From     string `json:"from"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// file is a device file.
type file struct {
	To          string `json:"to"` // in the container
	From        string `json:"from"`
	Permissions string `json:"permissions"`
}

func read(said *pluginapi.ContainerAllocateResponse) answer {
	out := answer{Env: said.GetEnvs(), Annotations: said.GetAnnotations()}
	for _, one := range said.GetMounts() {
		out.Mounts = append(out.Mounts, mount{one.GetContainerPath(), one.GetHostPath(), one.GetReadOnly()})
	}
	for _, one := range said.GetDevices() {
		out.Files = append(out.Files, file{one.GetContainerPath(), one.GetHostPath(), one.GetPermissions()})
	}
	for _, one := range said.GetCdiDevices() {
		out.CDI = append(out.CDI, one.GetName())
	}
	return out
}

// Options are what a container gets with its devices.
type Options struct {
	Env         map[string]string
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	Annotations map[string]string
	CDI         []string
}

// Options are what a container that is about to be made gets with its devices. Plugins that want to know are told that it starts. If a plugin registered since the pod came, the container
// is given now what it asks for.
func (m *Manager) Options(ctx context.Context, pod *corev1.Pod, container *corev1.Container) (Options, error) {
	m.mu.Lock()
	missing := false
	for name := range m.wants(pod, container) {
		missing = missing || m.pods[pod.UID][container.Name][name] == nil
	}
	m.mu.Unlock()
	if missing {
		if err := m.assign(ctx, pod, container.Name); err != nil {
			return Options{}, err
		}
	}
	if err := m.prepareStart(ctx, pod.UID, container.Name); err != nil {
		return Options{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return merge(m.pods[pod.UID][container.Name]), nil
}

// merge puts together what several resources bring. Where they contradict each other the first counts, by name.
func merge(has map[string]*grant) Options {
	out := Options{Env: map[string]string{}, Annotations: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(has)) {
		a := has[name].Answer
		add(out.Env, a.Env)
		add(out.Annotations, a.Annotations)
		for _, one := range a.Mounts {
			if !slices.ContainsFunc(out.Mounts, func(o *runtimeapi.Mount) bool { return o.ContainerPath == one.To }) {
				out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: one.To, HostPath: one.From, Readonly: one.ReadOnly})
			}
		}
		for _, one := range a.Files {
			if !slices.ContainsFunc(out.Devices, func(o *runtimeapi.Device) bool { return o.ContainerPath == one.To }) {
				out.Devices = append(out.Devices, &runtimeapi.Device{ContainerPath: one.To, HostPath: one.From, Permissions: one.Permissions})
			}
		}
		for _, one := range a.CDI {
			if !slices.Contains(out.CDI, one) {
				out.CDI = append(out.CDI, one)
			}
		}
	}
	return out
}

// add adds what isn't there.
func add(to, from map[string]string) {
	for k, v := range from {
		if _, ok := to[k]; !ok {
			to[k] = v
		}
	}
}
