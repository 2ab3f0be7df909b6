package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/node/backoff"
	"github.com/celox/celox/internal/node/cgroup"
	"github.com/celox/celox/internal/node/criconfig"
	"github.com/celox/celox/internal/node/deviceplugin"
	"github.com/celox/celox/internal/node/downward"
	"github.com/celox/celox/internal/node/dra"
	"github.com/celox/celox/internal/node/imagegc"
	"github.com/celox/celox/internal/node/imagelogin"
	"github.com/celox/celox/internal/node/imagepull"
	"github.com/celox/celox/internal/node/objects"
	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/plugins"
	"github.com/celox/celox/internal/node/podlog"
	"github.com/celox/celox/internal/node/podresources"
	"github.com/celox/celox/internal/node/probe"
	"github.com/celox/celox/internal/node/registration"
	"github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/node/source"
	"github.com/celox/celox/internal/node/volume"
)

// The back-off of containers that crash.
const (
	crashFirst = 10 * time.Second
	crashMax   = 5 * time.Minute
)

// Node runs the pods of one node. New makes it, Run runs it, once.
type Node struct {
	cfg         Config
	log         *slog.Logger
	clock       clock.WithTicker
	ctx         context.Context // of Run; for telling a failure from an end
	hostname    string
	runtimeName string // the scheme of container ids, e.g. "celox"
	memoryBytes int64

	cgroups      *cgroup.Tree // nil: none are made
	kernel       criconfig.Kernel
	burstable    burstable
	objects      *objects.Store
	certificates *objects.Certificates
	volumes      *volume.Manager
	devices      *dra.Manager
	plugged      *deviceplugin.Manager
	plugins      *plugins.Watcher
	prober       *probe.Manager
	puller       *imagepull.Puller
	logins       *imagelogin.Providers // nil: there are none
	images       *imagegc.Collector
	rotator      *podlog.Rotator
	registrar    *registration.Registrar
	crashes      *backoff.Backoff
	api          *server.Server
	static       *source.Set
	recorder     record.EventRecorder
	broadcast    record.EventBroadcaster
	counters     *counters

	allocatableList   corev1.ResourceList
	recursiveReadOnly atomic.Bool

	admission admission
	arrived   chan struct{} // a pod has come; capacity 1

	mu      sync.Mutex // guards what follows
	workers map[types.UID]*worker
	running bool
	wg      sync.WaitGroup
	mirrors mirrors
}

// New makes a Node. It asks for the informers that it needs: start their factory afterwards. Nothing runs before Run.
func New(cfg Config) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.RootDir, 0o750); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if err := os.MkdirAll(cfg.LogDir, 0o755); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n := &Node{
		cfg: cfg, log: cfg.Log, clock: cfg.Clock, ctx: context.Background(), hostname: strings.ToLower(cfg.NodeName), runtimeName: "celox",
		workers: map[types.UID]*worker{}, admission: admission{pods: map[types.UID]corev1.ResourceList{}, ports: map[types.UID][]hostPort{}, deferred: map[types.UID]deferral{}},
		crashes: backoff.New(crashFirst, crashMax), counters: newCounters(), arrived: make(chan struct{}, 1),
	}
	if cfg.CgroupRoot != "" {
		tree, err := cgroup.Detect("/proc/self/mounts", cfg.CgroupRoot)
		if err != nil {
			return nil, fmt.Errorf("node: cgroups: %w", err)
		}
		n.cgroups = tree
	}
	machine, err := registration.ReadMachine(cfg.RootDir)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n.memoryBytes = machine.MemoryBytes
	capacity := machine.Capacity(cfg.MaxPods)
	var keep int64
	if !cfg.Pressure.Off {
		keep = cfg.Pressure.Complete().Memory.Of(machine.MemoryBytes)
	}
	n.allocatableList = registration.Allocatable(capacity, cfg.Reserved, keep)

	n.objects = objects.New(cfg.Client, cfg.Clock, n.objectChanged)
	n.certificates = objects.NewCertificates(cfg.Client, cfg.NodeName, n.bundlesChanged, n.objectChanged)
	n.volumes = volume.New(volume.Config{
		Root: cfg.RootDir, Client: cfg.Client, Sources: n.objects, Certificates: n.certificates, NodeName: cfg.NodeName, Mounter: volume.Kernel{}, Clock: cfg.Clock,
		Node: func(pod *corev1.Pod) downward.Node { return n.downwardOf(pod) },
		Event: func(pod *corev1.Pod, reason, message string) {
			n.event(pod, "", corev1.EventTypeWarning, reason, message)
		},
	})
	n.devices, err = dra.New(dra.Config{
		NodeName: cfg.NodeName, Client: cfg.Client, File: filepath.Join(cfg.RootDir, "dra_manager_state"), Clock: cfg.Clock, Log: cfg.Log,
		Changed: func(uid types.UID) { n.withWorker(uid, (*worker).poke) },
	})
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	n.plugged, err = deviceplugin.New(deviceplugin.Config{
		Dir: cfg.DevicePluginDir, File: filepath.Join(cfg.RootDir, "device_manager_state"), Clock: cfg.Clock, Log: cfg.Log,
		NodeChanged: func() { n.registrar.Changed() },
		PodChanged:  func(uid types.UID) { n.withWorker(uid, (*worker).poke) },
		Ending:      n.ending,
	})
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	handlers := map[string]plugins.Handler{registerapi.DRAPlugin: n.devices}
	if cfg.DevicePluginDir != "" {
		handlers[registerapi.DevicePlugin] = n.plugged
	}
	n.plugins = plugins.New(plugins.Config{Dir: cfg.PluginDir, Handlers: handlers, Clock: cfg.Clock, Log: cfg.Log})
	n.prober = probe.New(probe.Config{
		Executor: cfg.Runtime, Clock: cfg.Clock,
		Changed: func(uid types.UID) { n.withWorker(uid, (*worker).poke) },
		Event: func(pod *corev1.Pod, container, reason, message string) {
			n.event(pod, container, corev1.EventTypeWarning, reason, message)
		},
		Count: n.counters.probe,
	})
	pulls, err := imagepull.OpenRecords(filepath.Join(cfg.RootDir, "image_manager"), cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if cfg.ImageCredentials != "" {
		n.logins, err = imagelogin.Open(imagelogin.Config{
			Path: cfg.ImageCredentials, BinDir: cfg.ImageCredentialsBinDir, Token: n.volumes.AccountToken, Clock: cfg.Clock, Log: cfg.Log,
			Account: func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
				return cfg.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
			},
		})
		if err != nil {
			return nil, fmt.Errorf("node: %w", err)
		}
	}
	n.puller = imagepull.New(cfg.Images, cfg.Clock, cfg.ParallelPulls, pulls)
	n.images = imagegc.New(imagegc.Config{
		Images: cfg.Images, Containers: cfg.Runtime, HighPercent: cfg.ImageGCHighPercent, LowPercent: cfg.ImageGCLowPercent,
		MinAge: imagegc.DefaultMinAge, Space: imagegc.FileSystem, Clock: cfg.Clock, Log: cfg.Log, Event: n.nodeEvent,
		Removed: pulls.Forget,
	})
	n.rotator = podlog.NewRotator(cfg.LogMaxBytes, cfg.LogMaxFiles, cfg.Clock, cfg.Log, cfg.Runtime.ReopenContainerLog)
	n.broadcast = record.NewBroadcaster(record.WithContext(context.Background()))
	n.recorder = n.broadcast.NewRecorder(eventScheme(), corev1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	n.registrar = registration.New(registration.Config{
		NodeName: cfg.NodeName, Hostname: n.hostname, Client: cfg.Client, Runtime: cfg.Runtime, Images: cfg.Images,
		Machine: machine, Capacity: capacity, Allocatable: n.allocatableList, Plugged: n.plugged.Capacity, IPs: cfg.NodeIPs, Port: cfg.Port,
		Labels: cfg.Labels, Taints: cfg.Taints, PodCIDRs: cfg.PodCIDRs, Version: cfg.Version, Register: cfg.Register,
		HeartbeatInterval: cfg.HeartbeatInterval, StatusInterval: cfg.StatusInterval,
		Clock: cfg.Clock, Log: cfg.Log, Event: n.nodeEvent,
		NetworkReady: func() {
			for _, w := range n.allWorkers() {
				w.networkReady()
			}
		},
	})
	n.static = source.NewSet(source.Config{
		NodeName: cfg.NodeName, Dir: cfg.StaticPodDir, URL: cfg.StaticPodURL, Clock: cfg.Clock, Log: cfg.Log,
		Update: n.staticPod, Remove: n.staticGone,
	})
	n.api = n.newServer()
	return n, nil
}

// Ready is closed when the node is registered and ready for pods.
func (n *Node) Ready() <-chan struct{} { return n.registrar.Ready() }

// Changed has the node's status looked at now: something that it is made of, such as the network of pods, is another.
func (n *Node) Changed() { n.registrar.Changed() }

// Handler serves the kubelet's API.
func (n *Node) Handler() http.Handler { return n.api }

// Run runs the node until ctx ends. Containers are left running: the next Run picks them up.
func (n *Node) Run(ctx context.Context) error {
	if err := n.prepare(ctx); err != nil {
		return err
	}
	n.ctx = ctx
	var wg sync.WaitGroup
	defer n.finish(&wg)
	sink := n.broadcast.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: n.cfg.Client.CoreV1().Events("")})
	defer sink.Stop()

	n.mu.Lock()
	n.running = true
	n.mu.Unlock()
	n.firstLook(ctx)
	wg.Go(func() { n.registrar.Run(ctx) })
	wg.Go(func() { n.rotator.Run(ctx) })
	if n.cfg.PluginDir != "" {
		wg.Go(func() { n.devices.Run(ctx) })
		wg.Go(func() {
			if err := n.plugins.Run(ctx); err != nil {
				n.log.Error("drivers cannot register", "error", err)
			}
		})
	}
	if n.cfg.DevicePluginDir != "" {
		wg.Go(func() { n.plugged.Run(ctx) })
	}
	if n.cfg.PodResourcesDir != "" {
		wg.Go(func() {
			if err := podresources.Serve(ctx, podresources.Config{
				Dir: n.cfg.PodResourcesDir, Pods: n.activePods, Devices: n.devices.InUse, Plugged: n.plugged.InUse, Allocatable: n.plugged.Allocatable,
			}); err != nil {
				n.log.Error("nobody can ask which pod has which devices", "error", err)
			}
		})
	}
	wg.Go(func() { n.followRuntime(ctx) })
	wg.Go(func() { n.static.Run(ctx) })
	wg.Go(func() { n.watchPressure(ctx) })
	if n.cfg.ImageGCHighPercent < 100 {
		wg.Go(func() { n.images.Run(ctx) })
	}
	if n.cfg.Listener != nil {
		stop := n.serve(&wg)
		defer stop()
	}
	registrations, err := n.followAPI()
	if err != nil {
		return err
	}
	defer registrations()
	if !cache.WaitForCacheSync(ctx.Done(), n.cfg.Pods.HasSynced, n.cfg.Services.HasSynced) {
		<-ctx.Done()
		return nil
	}
	select {
	case <-n.static.Complete(): // else the pods of manifests would be taken for what is left of others
	case <-ctx.Done():
		return nil
	}
	n.sortMirrors()
	if err := n.removeOrphans(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("cannot look for leftovers of pods that are gone", "error", err)
	}
	<-ctx.Done()
	return nil
}

// prepare waits until the runtime answers.
func (n *Node) prepare(ctx context.Context) error {
	const patience = 2 * time.Minute
	deadline := n.clock.Now().Add(patience)
	for {
		v, err := n.cfg.Runtime.Version(ctx, "v1")
		if err == nil {
			if v.RuntimeName != "" {
				n.runtimeName = v.RuntimeName
			}
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if n.clock.Now().After(deadline) {
			return fmt.Errorf("node: the container runtime does not answer: %w", err)
		}
		sleep(ctx, n, 200*time.Millisecond)
	}
	if s, err := n.cfg.Runtime.Status(ctx, false); err == nil {
		for _, h := range s.RuntimeHandlers {
			if h.Name == "" && h.GetFeatures().GetRecursiveReadOnlyMounts() {
				n.recursiveReadOnly.Store(true)
			}
		}
	}
	return n.prepareGroups()
}

// finish waits for everything that Run began.
func (n *Node) finish(wg *sync.WaitGroup) {
	n.mu.Lock()
	n.running = false
	n.mu.Unlock()
	wg.Wait()
	n.wg.Wait()
	n.prober.Close()
	n.objects.Close()
	n.certificates.Close()
	n.broadcast.Shutdown()
}

// followAPI takes pods from the informer. The returned function ends that.
func (n *Node) followAPI() (stop func(), err error) {
	mine := func(obj any) (*corev1.Pod, bool) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		pod, ok := obj.(*corev1.Pod)
		return pod, ok && pod.Spec.NodeName == n.cfg.NodeName
	}
	r, err := n.cfg.Pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if pod, ok := mine(obj); ok {
				n.apiPod(pod)
			}
		},
		UpdateFunc: func(old, obj any) {
			pod, ok := mine(obj)
			if !ok {
				return
			}
			if before, was := old.(*corev1.Pod); was && before.UID != pod.UID {
				n.withWorker(before.UID, (*worker).remove)
			}
			n.apiPod(pod)
		},
		DeleteFunc: func(obj any) {
			if pod, ok := mine(obj); ok {
				if isMirror(pod) {
					n.mirrorGone(pod)
					return
				}
				n.withWorker(pod.UID, (*worker).remove)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("node: follow pods: %w", err)
	}
	own, err := n.cfg.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, now any) {
			was, ok1 := before.(*corev1.Node)
			is, ok2 := now.(*corev1.Node)
			if ok1 && ok2 && is.Name == n.cfg.NodeName && !registration.SameResources(&was.Status, &is.Status) {
				n.registrar.Changed() // others say how many there are of what the machine doesn't know
			}
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if node, ok := obj.(*corev1.Node); ok && node.Name == n.cfg.NodeName {
				n.registrar.Changed() // it is made anew
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("node: follow the node: %w", err)
	}
	return func() {
		if err := errors.Join(n.cfg.Pods.RemoveEventHandler(r), n.cfg.Nodes.RemoveEventHandler(own)); err != nil {
			n.log.Debug("cannot remove the handlers", "error", err)
		}
	}, nil
}

// apiPod gives a pod of the API to its worker, making one if there is none.
func (n *Node) apiPod(pod *corev1.Pod) {
	if isMirror(pod) {
		n.mirrorSeen(pod)
		return
	}
	n.deliver(pod)
}

func (n *Node) deliver(pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.running {
		return
	}
	w := n.workers[pod.UID]
	if w == nil {
		w = newWorker(n, pod.UID)
		n.startWorker(w)
	}
	w.update(pod)
}

// startWorker starts a worker's goroutine. The caller holds mu.
func (n *Node) startWorker(w *worker) {
	n.workers[w.uid] = w
	select {
	case n.arrived <- struct{}{}:
	default:
	}
	n.wg.Go(func() {
		select {
		case <-w.wake: // the pod is there
		case <-n.ctx.Done():
			return
		}
		w.run(n.ctx)
		if n.ctx.Err() != nil {
			return
		}
		n.objects.Use(w.uid, nil)
		n.counters.forget(string(w.uid))
		n.released(w.uid)
		n.mu.Lock()
		delete(n.workers, w.uid)
		n.mu.Unlock()
		if pod := n.static.Pod(w.uid); pod != nil && w.isGone() {
			n.staticPod(pod) // its manifest came back while it was ending
		}
	})
}

func (n *Node) withWorker(uid types.UID, f func(*worker)) {
	n.mu.Lock()
	w := n.workers[uid]
	n.mu.Unlock()
	if w != nil {
		f(w)
	}
}

// ending says of a pod that has devices whether it gives them back in a moment. One that nobody knows does: either it was forgotten while the node was away, or its worker comes yet.
func (n *Node) ending(uid types.UID) bool {
	n.mu.Lock()
	w := n.workers[uid]
	n.mu.Unlock()
	if w == nil {
		return true
	}
	over := func(s *corev1.PodStatus) bool { return s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed }
	pod, st := w.snapshot()
	return w.isGone() || pod != nil && over(&pod.Status) || st != nil && over(st)
}

func (n *Node) objectChanged(uid types.UID) { n.withWorker(uid, (*worker).objectChanged) }

// bundlesChanged wakes the pods that project trust bundles.
func (n *Node) bundlesChanged() {
	for _, w := range n.allWorkers() {
		w.bundlesChanged()
	}
}

func (n *Node) allWorkers() []*worker {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*worker, 0, len(n.workers))
	for _, w := range n.workers {
		out = append(out, w)
	}
	return out
}

// activePods are the pods that are not over. Their statuses are those that the API has, since it has what others write there.
func (n *Node) activePods() []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range n.allWorkers() {
		pod, st := w.snapshot()
		if pod == nil || st != nil && (st.Phase == corev1.PodFailed || st.Phase == corev1.PodSucceeded) {
			continue
		}
		out = append(out, pod)
	}
	return out
}

// followRuntime wakes the workers whose pods the runtime has news of. When the stream breaks everybody looks again.
func (n *Node) followRuntime(ctx context.Context) {
	const firstDelay, maxDelay = 200 * time.Millisecond, time.Second
	delay := firstDelay
	for ctx.Err() == nil {
		events := make(chan *runtimeapi.ContainerEventResponse, 256)
		streamCtx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- n.cfg.Runtime.GetContainerEvents(streamCtx, events, nil)
			close(events)
		}()
		for e := range events {
			delay = firstDelay
			n.runtimeEvent(e)
		}
		err := <-done
		cancel()
		if ctx.Err() != nil {
			return
		}
		n.log.Debug("the runtime's event stream ended", "error", err)
		if delay == firstDelay {
			n.registrar.Changed() // perhaps the runtime is down
		}
		for _, w := range n.allWorkers() {
			w.runtimeChanged()
		}
		sleep(ctx, n, delay)
		delay = min(2*delay, maxDelay)
	}
}

func (n *Node) runtimeEvent(e *runtimeapi.ContainerEventResponse) {
	uid := e.GetPodSandboxStatus().GetMetadata().GetUid()
	if uid == "" {
		for _, w := range n.allWorkers() {
			w.runtimeChanged()
		}
		return
	}
	n.withWorker(types.UID(uid), (*worker).runtimeChanged)
}

// removeOrphans ends what is left of pods that the API no longer has: sandboxes, files, cgroups and logs.
func (n *Node) removeOrphans(ctx context.Context) error {
	sandboxes, err := n.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	n.mu.Lock()
	known := func(uid string) bool { return n.workers[types.UID(uid)] != nil }
	for _, pod := range n.cfg.Pods.GetStore().List() {
		// The informer's handler may be behind its store.
		if p, ok := pod.(*corev1.Pod); ok && p.Spec.NodeName == n.cfg.NodeName && !isMirror(p) && !known(string(p.UID)) && n.running {
			w := newWorker(n, p.UID)
			n.startWorker(w)
			w.update(p)
		}
	}
	for _, s := range sandboxes {
		uid := s.Labels[observed.LabelPodUID]
		if uid == "" || known(uid) || !n.running {
			continue
		}
		n.log.Info("a pod is gone from the API: stopping it", "pod", s.Labels[observed.LabelPodNamespace]+"/"+s.Labels[observed.LabelPodName], "uid", uid)
		w := newWorker(n, types.UID(uid))
		w.orphan, w.gone = true, true
		w.next = orphanPod(s)
		n.startWorker(w)
		w.poke()
	}
	logs, _ := os.ReadDir(n.cfg.LogDir)
	var staleVolumes []types.UID
	for _, uid := range n.volumes.Pods() {
		if !known(string(uid)) {
			staleVolumes = append(staleVolumes, uid)
		}
	}
	groups := n.orphanCgroups(known)
	n.devices.KeepOnly(func(uid types.UID) bool { return known(string(uid)) })
	err = n.plugged.KeepOnly(func(uid types.UID) bool { return known(string(uid)) })
	var staleLogs []string
	for _, e := range logs {
		name := e.Name()
		if i := strings.LastIndexByte(name, '_'); i >= 0 && !known(name[i+1:]) {
			staleLogs = append(staleLogs, filepath.Join(n.cfg.LogDir, name))
		}
	}
	n.mu.Unlock()
	errs := []error{err}
	for _, uid := range staleVolumes {
		errs = append(errs, n.volumes.Teardown(uid))
	}
	for _, g := range groups {
		errs = append(errs, n.cgroups.Remove(g, cgroupPatience))
	}
	for _, p := range staleLogs {
		errs = append(errs, os.RemoveAll(p))
	}
	return errors.Join(errs...)
}

func (n *Node) allocatable() corev1.ResourceList { return n.allocatableList }

// self is the node's own object, from the informer if it has it; nil before it is registered.
func (n *Node) self() *corev1.Node {
	if obj, ok, err := n.cfg.Nodes.GetStore().GetByKey(n.cfg.NodeName); err == nil && ok {
		if node, ok := obj.(*corev1.Node); ok {
			return node
		}
	}
	return n.registrar.Node()
}

// services lists the services whose variables pods of the namespace may get.
func (n *Node) services(namespace string, links bool) []*corev1.Service {
	var out []*corev1.Service
	if links {
		list, err := n.cfg.Services.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
		if err != nil {
			// Without the index every service is looked at.
			list = n.cfg.Services.GetStore().List()
		}
		for _, obj := range list {
			if s, ok := obj.(*corev1.Service); ok && s.Namespace == namespace {
				out = append(out, s)
			}
		}
	}
	if obj, ok, err := n.cfg.Services.GetStore().GetByKey("default/kubernetes"); err == nil && ok && !(links && namespace == "default") {
		if s, ok := obj.(*corev1.Service); ok {
			out = append(out, s)
		}
	}
	return out
}
