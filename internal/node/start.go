package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/dra"
	"github.com/celox/celox/internal/node/env"
	"github.com/celox/celox/internal/node/imagelogin"
	"github.com/celox/celox/internal/node/imagepull"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/status"
	"github.com/celox/celox/internal/node/volume"
)

// The reasons of containers that could not be started.
const (
	reasonConfig    = "CreateContainerConfigError"
	reasonCreate    = "CreateContainerError"
	reasonRun       = "RunContainerError"
	reasonPostStart = "PostStartHookError"
)

// facts are what a task needs to know of its pod; the pod may change while the task runs.
type facts struct {
	pod     *corev1.Pod
	class   corev1.PodQOSClass
	cgroup  string // "" without cgroups
	ips     []string
	sandbox *observed.Sandbox
	names   criconfig.Names
}

func (w *worker) facts() facts {
	f := facts{pod: w.pod, class: w.pod.Status.QOSClass, ips: w.podIPs(), sandbox: w.observed.Sandbox()}
	if f.class == "" {
		f.class = status.QOSClass(w.pod)
	}
	if w.n.cgroups != nil {
		f.cgroup = cgroup.PodGroup(w.n.cgroups.Root(), f.class, string(w.uid))
	}
	f.names = criconfig.NamesOf(w.pod, w.n.cfg.ClusterDomain, w.n.hostname)
	return f
}

// spawnSetup makes the pod's cgroup, directories and volumes be as they should.
func (w *worker) spawnSetup(ctx context.Context) {
	f := w.facts()
	first := !w.setupDone
	var group *cgroup.Limits
	if first && f.cgroup != "" {
		l := w.n.groupLimits(f)
		group = &l
	}
	w.spawn(ctx, "setup", false, func(ctx context.Context) func() {
		next, err := w.n.setupPod(ctx, f, first)
		return func() {
			if err != nil {
				w.setupWant = true
				if ctx.Err() == nil || w.n.clock.Now().After(w.setupRetry.at) {
					w.setupRetry.fail(w.n.clock.Now())
				}
				return
			}
			w.setupRetry.ok()
			w.setupDone = true
			if group != nil {
				w.resize.group = group
			}
			w.tokenAt = next
		}
	})
}

func (n *Node) setupPod(ctx context.Context, f facts, first bool) (time.Time, error) {
	if first {
		if f.cgroup != "" {
			if err := n.ensureGroup(f); err != nil {
				n.event(f.pod, "", corev1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: "+err.Error())
				return time.Time{}, err
			}
		}
		if err := os.MkdirAll(criconfig.PodLogDir(n.cfg.LogDir, f.pod.Namespace, f.pod.Name, f.pod.UID), 0o755); err != nil {
			n.event(f.pod, "", corev1.EventTypeWarning, "Failed", err.Error())
			return time.Time{}, err
		}
	}
	if dra.Uses(f.pod) {
		if err := n.devices.Prepare(ctx, f.pod); err != nil {
			if ctx.Err() == nil {
				n.event(f.pod, "", corev1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: "+err.Error())
			}
			return time.Time{}, err
		}
	}
	next, err := n.volumes.Setup(ctx, f.pod)
	if err != nil && ctx.Err() == nil {
		for _, e := range volumeErrors(err) {
			n.event(f.pod, "", corev1.EventTypeWarning, "FailedMount", e.Error())
		}
	}
	return next, err
}

// volumeErrors takes a joined error apart.
func volumeErrors(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// spawnSandbox makes a new sandbox.
func (w *worker) spawnSandbox(ctx context.Context, a actions) {
	f := w.facts()
	if a.Changed {
		w.n.event(f.pod, "", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	old := w.observed.Sandboxes
	w.spawn(ctx, "sandbox", false, func(ctx context.Context) func() {
		err := w.n.runSandbox(ctx, f, a.Attempt, old)
		return func() {
			if err == nil {
				w.sandbox.ok()
				return
			}
			w.sandbox.fail(w.n.clock.Now())
		}
	})
}

func (n *Node) runSandbox(ctx context.Context, f facts, attempt uint32, old []observed.Sandbox) error {
	for i := range old {
		if err := n.cfg.Runtime.StopPodSandbox(ctx, old[i].ID); err != nil && !observed.IsNotFound(err) {
			n.event(f.pod, "", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+plain(err))
			return err
		}
	}
	if problem := n.registrar.NetworkProblem(); problem != "" && !f.pod.Spec.HostNetwork {
		// Pods that bring the network, as those of a DaemonSet do, are on the host's.
		n.event(f.pod, "", corev1.EventTypeWarning, "NetworkNotReady", "network is not ready: "+problem)
		return errors.New(problem)
	}
	config, handler, err := n.sandboxConfig(ctx, f, attempt)
	if err == nil {
		n.counters.podsStarted.Inc()
		_, err = n.cfg.Runtime.RunPodSandbox(ctx, config, handler)
	}
	if err != nil {
		n.counters.podErrors.Inc()
		if ctx.Err() == nil {
			n.event(f.pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+plain(err))
		}
		return err
	}
	// The old ones have nothing in them that anybody asks for: their containers stay as long as their logs are wanted.
	return nil
}

func (n *Node) sandboxConfig(ctx context.Context, f facts, attempt uint32) (*runtimeapi.PodSandboxConfig, string, error) {
	handler, err := n.runtimeHandler(ctx, f.pod)
	if err != nil {
		return nil, "", err
	}
	if err := supportsUsers(f.pod, handler); err != nil {
		return nil, "", err
	}
	host, err := n.resolver()
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", n.cfg.ResolvConf, err)
	}
	if len(n.cfg.ClusterDNS) == 0 && (f.pod.Spec.DNSPolicy == corev1.DNSClusterFirst && !f.pod.Spec.HostNetwork || f.pod.Spec.DNSPolicy == corev1.DNSClusterFirstWithHostNet) {
		n.log.Debug("no cluster DNS is configured: the pod gets the host's resolver", "pod", describe(f.pod))
	}
	config, err := criconfig.Sandbox(criconfig.SandboxInput{
		Pod: f.pod, Attempt: attempt, Names: f.names, LogDir: n.cfg.LogDir, CgroupParent: f.cgroup,
		DNS:     criconfig.DNS(f.pod, n.cfg.ClusterDNS, n.cfg.ClusterDomain, host),
		Options: criconfig.Options{SeccompDir: n.cfg.SeccompDir},
	})
	return config, handler, err
}

// supportsUsers refuses a pod that is not to share the users of the machine: the runtime makes no user namespaces, and such a pod must not
// run with the rights that it meant to give up.
func supportsUsers(pod *corev1.Pod, handler string) error {
	switch {
	case pod.Spec.HostUsers == nil || *pod.Spec.HostUsers:
		return nil
	case handler != "":
		return fmt.Errorf("can't set `spec.hostUsers: false`, RuntimeClass handler %q does not support user namespaces", handler)
	}
	return errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
}

// runtimeHandler is the handler that the pod's RuntimeClass names.
func (n *Node) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, err := n.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return "", fmt.Errorf("failed to get sandbox runtime: runtimeclass.node.k8s.io %q not found", *name)
		}
		return "", fmt.Errorf("failed to get sandbox runtime: %w", err)
	}
	return class.Handler, nil
}

func (n *Node) resolver() (criconfig.Resolver, error) {
	file, err := os.Open(n.cfg.ResolvConf)
	if err != nil {
		if os.IsNotExist(err) {
			return criconfig.Resolver{}, nil
		}
		return criconfig.Resolver{}, err
	}
	defer file.Close()
	return criconfig.ParseResolver(file)
}

// started is the result of an attempt to start a container.
type started struct {
	failure *failure
	created bool // there is a new container, whatever became of it
	id      string
}

// spawnStart starts a container beside the worker.
func (w *worker) spawnStart(ctx context.Context, st start, now time.Time) {
	name := st.Container.Name
	if w.busy(containerKey(name)) {
		return
	}
	f := w.facts()
	if s := usableSandbox(w.pod, w.observed); s != nil {
		f.sandbox = s
	}
	targetID := ""
	if st.Ephemeral != nil && st.Ephemeral.TargetContainerName != "" {
		if t := w.observed.Latest(st.Ephemeral.TargetContainerName); t != nil && t.Running() {
			targetID = t.ID
		}
	}
	old := w.discards(name, st)
	before := ""
	if l := w.observed.Latest(name); l != nil {
		before = l.ID
	}
	w.spawn(ctx, containerKey(name), false, func(ctx context.Context) func() {
		kind := containerType(f.pod, name)
		w.n.counters.containersStarted.WithLabelValues(kind).Inc()
		result := w.startContainer(ctx, f, st, targetID)
		if result.failure != nil {
			w.n.counters.containerErrors.WithLabelValues(kind, result.failure.Reason).Inc()
		}
		if result.failure == nil {
			for _, id := range old {
				if err := w.n.cfg.Runtime.RemoveContainer(ctx, id); err != nil && ctx.Err() == nil && !observed.IsNotFound(err) {
					w.n.log.Warn("cannot remove an old container", "id", id, "error", err)
				}
			}
		}
		return func() {
			if result.id != "" {
				w.resize.given[result.id] = givenTo(f.pod, st.Container)
			}
			if result.created && st.Replaces != nil && !st.Leftover && !w.replaced[st.Replaces.ID] {
				w.n.crashes.Next(w.crashKey(st.Container), st.Replaces.FinishedAt, now)
			}
			if result.failure == nil {
				delete(w.failures, name)
				delete(w.backoffs, name)
				return
			}
			result.failure.early, result.failure.before = !result.created, before
			if ctx.Err() == nil || w.stage == stageRun {
				w.noteFailure(name, *result.failure)
			}
		}
	})
}

// discards are the incarnations that are of no use once a new one runs: only the one before is kept, for its log.
func (w *worker) discards(name string, st start) []string {
	var out []string
	kept := 0
	for i := range w.observed.Containers {
		c := &w.observed.Containers[i]
		if c.Name != name || c.Running() {
			continue
		}
		if st.Leftover && c == st.Replaces {
			continue // removed before the start
		}
		if kept++; kept > 1 {
			out = append(out, c.ID)
		}
	}
	return out
}

// startContainer does all that lies between the wish and the running container.
func (w *worker) startContainer(ctx context.Context, f facts, st start, targetID string) started {
	n, c := w.n, st.Container
	event := func(eventType, reason, message string) { n.event(f.pod, c.Name, eventType, reason, message) }
	fail := func(reason, message string, config bool) started {
		if ctx.Err() == nil {
			event(corev1.EventTypeWarning, "Failed", "Error: "+message)
		}
		return started{failure: &failure{Waiting: status.Waiting{Reason: reason, Message: message}, config: config}}
	}
	sandboxConfig, handler, err := n.sandboxConfig(ctx, f, f.sandbox.Attempt)
	if err != nil {
		return fail(reasonConfig, plain(err), false)
	}
	secrets := n.pullSecrets(ctx, f.pod)
	image, perr := n.puller.Ensure(ctx, imagepull.Request{
		Key: w.pullKey(c.Image), Image: c.Image, Policy: c.ImagePullPolicy, Secrets: secrets, Logins: n.loginsOf(f.pod), Sandbox: sandboxConfig, Handler: handler,
		Event: event,
	})
	if perr != nil {
		return w.pullFailed(ctx, perr, event)
	}
	if c.ImagePullPolicy != corev1.PullNever {
		n.registrar.ImagesChanged()
	}
	volumeImages, perr := w.volumeImages(ctx, f, c, secrets, sandboxConfig, handler, event)
	if perr != nil {
		return w.pullFailed(ctx, perr, event)
	}

	config, err := n.containerConfig(ctx, f, st, image, volumeImages, targetID)
	if err != nil {
		var ce *createError
		if errors.As(err, &ce) {
			return fail(reasonCreate, ce.Error(), false)
		}
		f := fail(reasonConfig, err.Error(), true)
		f.failure.retryAt = n.clock.Now().Add(configRetry)
		return f
	}
	if st.Leftover {
		if err := n.cfg.Runtime.RemoveContainer(ctx, st.Replaces.ID); err != nil && !observed.IsNotFound(err) {
			return fail(reasonCreate, plain(err), false)
		}
	}
	if err := os.MkdirAll(filepath.Join(sandboxConfig.LogDirectory, c.Name), 0o755); err != nil {
		return fail(reasonCreate, err.Error(), false)
	}
	id, err := n.cfg.Runtime.CreateContainer(ctx, f.sandbox.ID, config, sandboxConfig)
	if err != nil {
		return fail(reasonCreate, plain(err), false)
	}
	event(corev1.EventTypeNormal, "Created", "Container created")
	hasHook := c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	if hasHook {
		w.setHook(id, true)
		defer w.setHook(id, false)
	}
	if err := n.cfg.Runtime.StartContainer(ctx, id); err != nil {
		message := plain(err)
		if ctx.Err() == nil {
			event(corev1.EventTypeWarning, "Failed", "Error: "+message)
		}
		// It counts as a crash: its back-off is the containers', and the runtime shows it as ended.
		return started{created: true, id: id, failure: &failure{Waiting: status.Waiting{Reason: reasonRun, Message: message}, retryAt: time.Time{}.Add(1)}}
	}
	event(corev1.EventTypeNormal, "Started", "Container started")
	if !hasHook {
		return started{created: true, id: id}
	}
	w.runtimeChanged()
	ip := ""
	if len(f.ips) > 0 {
		ip = f.ips[0]
	}
	runner := n.hooks(f.pod)
	if err := runner.Run(ctx, c, id, ip, c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
		n.log.Debug("postStart hook failed", "pod", describe(f.pod), "container", c.Name, "error", err)
		event(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		event(corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
		grace := corev1.DefaultTerminationGracePeriodSeconds * time.Second
		if g := f.pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		if err := n.cfg.Runtime.StopContainer(ctx, id, int64(grace/time.Second)); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot stop a container", "id", id, "error", err)
		}
		return started{created: true, id: id, failure: &failure{Waiting: status.Waiting{Reason: reasonPostStart, Message: "PostStartHook failed"}, retryAt: time.Time{}.Add(1)}}
	}
	return started{created: true, id: id}
}

func (w *worker) setHook(id string, running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if running {
		w.hooks[id] = true
	} else {
		delete(w.hooks, id)
	}
}

func (w *worker) pullFailed(ctx context.Context, e *imagepull.Error, event func(eventType, reason, message string)) started {
	if ctx.Err() == nil {
		event(corev1.EventTypeWarning, "Failed", "Error: "+e.Reason)
	}
	f := &failure{Waiting: status.Waiting{Reason: e.Reason, Message: e.Message}, retryAt: e.RetryAt}
	if e.Reason == imagepull.ReasonPull && !e.RetryAt.IsZero() {
		if t := w.n.clock.Now().Add(errorShown); t.Before(e.RetryAt) {
			f.retryAt = t
		}
	}
	return started{failure: f}
}

// pullSecrets are the pod's imagePullSecrets that exist.
func (n *Node) pullSecrets(ctx context.Context, pod *corev1.Pod) []*corev1.Secret {
	var out []*corev1.Secret
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, err := n.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			n.event(pod, "", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			continue
		}
		out = append(out, s)
	}
	return out
}

// loginsOf asks the credential providers on behalf of a pod; nil if there are none.
func (n *Node) loginsOf(pod *corev1.Pod) func(ctx context.Context, image string) []imagelogin.Login {
	if n.logins == nil {
		return nil
	}
	return func(ctx context.Context, image string) []imagelogin.Login { return n.logins.For(ctx, pod, image) }
}

// volumeImages pulls the images behind the image volumes that the container mounts (KEP-4639).
func (w *worker) volumeImages(ctx context.Context, f facts, c *corev1.Container, secrets []*corev1.Secret, sandbox *runtimeapi.PodSandboxConfig, handler string, event func(eventType, reason, message string)) (map[string]string, *imagepull.Error) {
	out := map[string]string{}
	for _, m := range c.VolumeMounts {
		for i := range f.pod.Spec.Volumes {
			v := &f.pod.Spec.Volumes[i]
			if v.Name != m.Name || v.Image == nil {
				continue
			}
			image, err := w.n.puller.Ensure(ctx, imagepull.Request{
				Key: w.pullKey(v.Image.Reference), Image: v.Image.Reference, Policy: v.Image.PullPolicy, Secrets: secrets, Logins: w.n.loginsOf(f.pod), Sandbox: sandbox,
				Handler: handler, Event: event,
			})
			if err != nil {
				return nil, err
			}
			out[v.Name] = image.Ref
		}
	}
	return out, nil
}

// createError is a failure that isn't the fault of a missing config map or secret.
type createError struct{ error }

// containerConfig makes everything that a container is told.
func (n *Node) containerConfig(ctx context.Context, f facts, st start, image imagepull.Image, volumeImages map[string]string, targetID string) (*runtimeapi.ContainerConfig, error) {
	c := st.Container
	info := n.downwardFor(f)
	links := f.pod.Spec.EnableServiceLinks == nil || *f.pod.Spec.EnableServiceLinks
	vars, err := env.Make(ctx, env.Input{
		Pod: f.pod, Container: c, Node: info, Sources: n.objects,
		Services: env.Services(n.services(f.pod.Namespace, links), f.pod.Namespace, links),
		Files: func(v, path string) ([]byte, error) {
			return n.volumes.ReadFile(ctx, f.pod, v, path, env.MaxFileBytes)
		},
	})
	if err != nil {
		return nil, err
	}
	plugged, err := n.plugged.Options(ctx, f.pod, c)
	if err != nil {
		return nil, &createError{err}
	}
	vars = withDevices(plugged.Env, vars)
	values := make(map[string]string, len(vars))
	for _, v := range vars {
		values[v.Name] = v.Value
	}
	hosts, err := n.hostsFile(f)
	if err != nil {
		return nil, &createError{err}
	}
	mounts, err := n.volumes.Mounts(ctx, volume.ContainerInput{
		Pod: f.pod, Container: c, Lookup: env.Lookup(values), Images: volumeImages, Hosts: hosts, RecursiveReadOnly: n.recursiveReadOnly.Load(),
	})
	if err != nil {
		return nil, err
	}
	claimed, err := n.devices.Devices(f.pod, c)
	if err != nil {
		return nil, &createError{err}
	}
	for _, id := range plugged.CDI {
		if !slices.Contains(claimed, id) {
			claimed = append(claimed, id)
		}
	}
	return criconfig.Container(criconfig.ContainerInput{
		Pod: f.pod, Container: c, RestartCount: st.RestartCount, ImageRef: image.Ref, ImageUID: image.UID, ImageUser: image.User,
		Env: vars, Mounts: append(plugged.Mounts, mounts.Mounts...), Devices: append(plugged.Devices, mounts.Devices...), Annotations: plugged.Annotations,
		CDIDevices: claimed, TargetID: targetID, MemoryBytes: n.memoryBytes, Kernel: n.kernel,
		Options: criconfig.Options{SeccompDir: n.cfg.SeccompDir}, TerminationHostPath: mounts.TerminationFile,
	})
}

// withDevices adds the variables that come with devices to those of the pod, which go first where both have one.
func withDevices(more map[string]string, vars []env.Var) []env.Var {
	var out []env.Var
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if !slices.ContainsFunc(vars, func(v env.Var) bool { return v.Name == name }) {
			out = append(out, env.Var{Name: name, Value: more[name]})
		}
	}
	return append(out, vars...)
}

func (n *Node) hostsFile(f facts) ([]byte, error) {
	var host []byte
	if f.pod.Spec.HostNetwork {
		data, err := os.ReadFile(n.cfg.HostsFile)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		host = data
	}
	return criconfig.HostsFile(f.pod, f.ips, f.names, host), nil
}

// plain is an error's text as people know it from gRPC runtimes.
func plain(err error) string {
	if s, ok := grpcstatus.FromError(err); ok && s.Message() != "" {
		return strings.TrimSpace(fmt.Sprintf("rpc error: code = %s desc = %s", s.Code(), s.Message()))
	}
	return err.Error()
}
