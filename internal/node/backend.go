package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/podlog"
	"github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/node/stats"
	"github.com/celox/celox/internal/node/status"
)

// backend is the node as its HTTP API sees it.
type backend struct {
	n     *Node
	stats *stats.Provider
}

func (n *Node) newServer() *server.Server {
	b := &backend{n: n}
	b.stats = stats.New(stats.Config{
		NodeName: n.cfg.NodeName, Root: n.cfg.RootDir, Runtime: n.cfg.Runtime, Images: n.cfg.Images, Cgroups: n.cgroups, Clock: n.clock,
		PodStart: func(uid string) (time.Time, bool) {
			var t time.Time
			n.withWorker(types.UID(uid), func(w *worker) {
				if _, s := w.snapshot(); s != nil && s.StartTime != nil {
					t = s.StartTime.Time
				}
			})
			return t, !t.IsZero()
		},
	})
	regs := n.registries(b)
	return server.New(server.Config{
		NodeName: n.cfg.NodeName, Backend: b, Runtime: n.cfg.Runtime, Streaming: n.cfg.Streaming, LogDir: n.cfg.LogDir,
		Metrics: n.allMetrics(regs.own), Probes: regs.probes, Cadvisor: regs.cadvisor, Resource: regs.resource,
		Authenticate: n.cfg.Authenticate, Authorize: n.cfg.Authorize, Log: n.log,
	})
}

// serve serves the API on the configured listener. The returned function ends that.
func (n *Node) serve(wg *sync.WaitGroup) (stop func()) {
	s := &http.Server{
		Handler: n.api, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 20,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug), // whose handshake fails hears of it
	}
	l := n.cfg.Listener
	if n.cfg.ServingTLS != nil {
		c := n.cfg.ServingTLS.Clone()
		c.NextProtos = []string{"http/1.1"} // exec and port-forward upgrade the connection
		l = tls.NewListener(l, c)
	}
	wg.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("the kubelet API ended", "error", err)
		}
	})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
}

// find is a pod's worker by name; of several with that name the one that isn't leaving, or else the youngest.
func (b *backend) find(namespace, name, uid string) (*worker, *corev1.Pod, *corev1.PodStatus, error) {
	var found *worker
	var pod *corev1.Pod
	var st *corev1.PodStatus
	leaves := true
	for _, w := range b.n.allWorkers() {
		p, s := w.snapshot()
		if p == nil || p.Namespace != namespace || p.Name != name {
			continue
		}
		if m := b.n.mirrorOf(p); uid != "" && string(p.UID) != uid && (m == nil || string(m.UID) != uid) {
			continue
		}
		// One that was deleted without grace has no deletion timestamp: the API forgot it at once, and its containers still run.
		going := p.DeletionTimestamp != nil || w.isGone()
		if found == nil || leaves && !going || leaves == going && pod.CreationTimestamp.Before(&p.CreationTimestamp) {
			found, pod, st, leaves = w, p, s, going
		}
	}
	if found == nil {
		return nil, nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return found, pod, st, nil
}

// Pods are the node's pods with their newest status.
func (b *backend) Pods() []*corev1.Pod {
	out := []*corev1.Pod{}
	for _, w := range b.n.allWorkers() {
		pod, st := w.snapshot()
		if pod == nil {
			continue
		}
		if st != nil {
			c := *pod
			c.Status = *st
			pod = &c
		}
		out = append(out, pod)
	}
	return out
}

// RunningPods are the pods with a running container as the runtime knows them.
func (b *backend) RunningPods(ctx context.Context) ([]*corev1.Pod, error) {
	list, err := b.n.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return nil, err
	}
	byUID := map[string]*corev1.Pod{}
	out := []*corev1.Pod{}
	for _, c := range list {
		uid := c.Labels[observed.LabelPodUID]
		pod := byUID[uid]
		if pod == nil {
			pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.Labels[observed.LabelPodName], Namespace: c.Labels[observed.LabelPodNamespace], UID: types.UID(uid)}}
			byUID[uid] = pod
			out = append(out, pod)
		}
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.GetMetadata().GetName(), Image: c.ImageRef})
	}
	return out, nil
}

// ContainerID is the running container of a pod.
func (b *backend) ContainerID(namespace, name, uid, container string) (string, error) {
	_, pod, st, err := b.find(namespace, name, uid)
	if err != nil {
		return "", err
	}
	if findContainer(pod, container) == nil || st == nil {
		return "", apierrors.NewNotFound(corev1.Resource("containers"), container)
	}
	cs := status.FindAny(st, container)
	if cs == nil || cs.State.Running == nil {
		return "", apierrors.NewInternalError(fmt.Errorf("container not found (%q)", container))
	}
	return bare(cs.ContainerID), nil
}

// bare is a container id without its scheme.
func bare(id string) string {
	if _, rest, ok := strings.Cut(id, "://"); ok {
		return rest
	}
	return id
}

// SandboxID is the sandbox of a pod.
func (b *backend) SandboxID(ctx context.Context, namespace, name, uid string) (string, error) {
	w, _, _, err := b.find(namespace, name, uid)
	if err != nil {
		return "", err
	}
	list, err := b.n.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{observed.LabelPodUID: string(w.uid)},
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	})
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", apierrors.NewInternalError(fmt.Errorf("cannot find sandbox of pod %q", name))
	}
	return list[0].Id, nil
}

// Logs writes a container's log.
func (b *backend) Logs(ctx context.Context, namespace, name, container string, o server.LogOptions, begin func(), stdout, stderr io.Writer) error {
	w, pod, st, err := b.find(namespace, name, "")
	if err != nil {
		return err
	}
	if findContainer(pod, container) == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is not available", container, name))
	}
	var cs *corev1.ContainerStatus
	if st != nil {
		cs = status.FindAny(st, container)
	}
	id, running, err := logSource(cs, container, name, o.Previous)
	if err != nil {
		return err
	}
	resp, err := b.n.cfg.Runtime.ContainerStatus(ctx, id, false)
	if err != nil {
		if observed.IsNotFound(err) {
			return apierrors.NewBadRequest(fmt.Sprintf("unable to retrieve container logs for %s://%s", b.n.runtimeName, id))
		}
		return err
	}
	c := observed.FromStatus(resp.Status)
	options := podlog.Options{Follow: o.Follow && running, Since: o.SinceTime, Tail: -1, LimitBytes: -1, Timestamps: o.Timestamps}
	if o.TailLines != nil {
		options.Tail = *o.TailLines
	}
	if o.LimitBytes != nil {
		options.LimitBytes = *o.LimitBytes
	}
	switch o.Stream {
	case corev1.LogStreamStdout:
		options.Stream = "stdout"
	case corev1.LogStreamStderr:
		options.Stream = "stderr"
	}
	if options.Follow {
		done := make(chan struct{})
		options.Done = done
		stop := w.whenEnded(id, done)
		defer stop()
	}
	begin()
	return podlog.Read(ctx, w.logFileOf(pod, &c), options, stdout, stderr)
}

// logSource chooses which incarnation of a container is meant.
func logSource(cs *corev1.ContainerStatus, container, pod string, previous bool) (id string, running bool, _ error) {
	unavailable := func() error { return apierrors.NewBadRequest(status.NotRunningMessage(container, pod, cs).Error()) }
	if cs == nil {
		return "", false, unavailable()
	}
	if previous {
		t := cs.LastTerminationState.Terminated
		if t == nil || t.ContainerID == "" {
			return "", false, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod))
		}
		return bare(t.ContainerID), false, nil
	}
	switch {
	case cs.State.Running != nil:
		return bare(cs.ContainerID), true, nil
	case cs.State.Terminated != nil && cs.State.Terminated.ContainerID != "":
		return bare(cs.State.Terminated.ContainerID), false, nil
	case cs.State.Waiting != nil && cs.LastTerminationState.Terminated != nil && cs.LastTerminationState.Terminated.ContainerID != "":
		return bare(cs.LastTerminationState.Terminated.ContainerID), false, nil
	}
	return "", false, unavailable()
}

// Summary measures the node and its pods.
func (b *backend) Summary(ctx context.Context) (*statsapi.Summary, error) {
	return b.stats.Summary(ctx)
}

// Configuration is what /configz shows, in the words of KubeletConfiguration.
func (b *backend) Configuration() any {
	c := &b.n.cfg
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"clusterDNS": c.ClusterDNS, "clusterDomain": c.ClusterDomain, "maxPods": c.MaxPods, "podPidsLimit": c.PodPIDs,
		"port": c.Port, "cgroupRoot": c.CgroupRoot, "cgroupDriver": "cgroupfs", "resolvConf": c.ResolvConf, "staticPodPath": c.StaticPodDir,
		"containerLogMaxSize": fmt.Sprint(c.LogMaxBytes), "containerLogMaxFiles": c.LogMaxFiles, "seccompDefault": true,
		"nodeStatusReportFrequency": c.StatusInterval.String(), "maxParallelImagePulls": c.ParallelPulls,
	}
}
