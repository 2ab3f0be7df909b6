package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/celox/celox/test/image"
)

const (
	podStartMethod = "Pods created one after another, each after the one before has gone; from just before the create is sent until a watch shows the pod Running with its " +
		"container running. Image present; the pod has a service account token, requests, and two small processes that end on SIGTERM."
	podBurstMethod = "50 such pods created by 16 clients at once; from just before the first create until the watch shows the last one Running. Memory: what Pss of the cluster's own " +
		"processes has grown by 20 s later, per pod; the kernel's own memory is not in it."

	burst = 50
	// trapTime is what a pod gets to set up its handler of SIGTERM before it is deleted; without one, its grace period would be measured.
	trapTime  = 100 * time.Millisecond
	imageName = "bench.invalid/busybox:1" // cannot be pulled: it must be there
	// podLimit bounds the wait for pods to run or to go. It is no measurement.
	podLimit = 2 * time.Minute
)

// tracker notes when a watch first shows each pod running, and gone.
type tracker struct {
	stop context.CancelFunc
	done chan struct{} // closed when the watch has ended

	mu      sync.Mutex // guards what follows
	running map[string]time.Time
	gone    map[string]time.Time
	wake    chan struct{} // closed and replaced when there is something new
}

// track begins to watch the pods of the namespace.
func (s *stage) track(ctx context.Context) (*tracker, error) {
	client, err := s.Client()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w, err := client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		stop()
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	t := &tracker{stop: stop, done: make(chan struct{}), running: map[string]time.Time{}, gone: map[string]time.Time{}, wake: make(chan struct{})}
	go func() {
		defer close(t.done)
		defer w.Stop()
		for event := range w.ResultChan() {
			t.see(event)
		}
	}()
	return t, nil
}

// close ends the watch and waits until it has ended.
func (t *tracker) close() {
	t.stop()
	<-t.done
}

func (t *tracker) see(event watch.Event) {
	now := time.Now()
	pod, ok := event.Object.(*corev1.Pod)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	when := t.running
	switch {
	case event.Type == watch.Deleted:
		when = t.gone
	case pod.Status.Phase != corev1.PodRunning || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil:
		return
	}
	if _, seen := when[pod.Name]; !seen {
		when[pod.Name] = now
		close(t.wake)
		t.wake = make(chan struct{})
	}
}

// await waits until all pods are in one of the tracker's maps and returns when the last of them came.
func (t *tracker) await(ctx context.Context, what string, when map[string]time.Time, names ...string) (time.Time, error) {
	limit := time.NewTimer(podLimit)
	defer limit.Stop()
	for {
		var last time.Time
		missing := 0
		t.mu.Lock()
		for _, name := range names {
			if at, ok := when[name]; !ok {
				missing++
			} else if at.After(last) {
				last = at
			}
		}
		wake := t.wake
		t.mu.Unlock()
		if missing == 0 {
			return last, nil
		}
		select {
		case <-wake:
		case <-t.done:
			return last, errors.Join(errors.New("the watch of pods has ended"), ctx.Err())
		case <-limit.C:
			return last, fmt.Errorf("%d of %d pods are not %s after %s", missing, len(names), what, podLimit)
		}
	}
}

// smallPod is a pod that does nothing and ends when told. A gate keeps it from being scheduled.
func smallPod(name, gate string) []byte {
	spec := object{
		"terminationGracePeriodSeconds": 5,
		"containers": []any{object{
			"name": "main", "image": imageName, "imagePullPolicy": "IfNotPresent",
			"command":   []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"}, // a lone sleep as process 1 would not hear SIGTERM
			"resources": object{"requests": object{"cpu": "10m", "memory": "16Mi"}},
		}},
	}
	if gate != "" {
		spec["schedulingGates"] = []any{object{"name": gate}}
	}
	return encode(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name, "labels": object{"app": "bench"}}, "spec": spec})
}

func (s *stage) createPod(ctx context.Context, conn int, name string) error {
	_, err := s.client.do(ctx, conn, call{method: http.MethodPost, path: inNamespace("pods"), body: smallPod(name, "")})
	return err
}

func (s *stage) deletePod(ctx context.Context, conn int, name string) error {
	_, err := s.client.do(ctx, conn, call{method: http.MethodDelete, path: inNamespace("pods/" + name)})
	return err
}

// onPodStage is onStage with the image, the namespace and a tracker.
func (b *bench) onPodStage(ctx context.Context, name string, f func(*stage, *tracker) error) error {
	return b.onStage(name, func(s *stage) error {
		img, err := image.Busybox("sh")
		if err != nil {
			return err
		}
		if err := s.Import(imageName, img); err != nil {
			return err
		}
		if err := s.client.makeNamespace(ctx); err != nil {
			return err
		}
		t, err := s.track(ctx)
		if err != nil {
			return err
		}
		defer t.close()
		return f(s, t)
	})
}

func podStart(ctx context.Context, b *bench) error {
	return b.onPodStage(ctx, "pod-start", func(s *stage, t *tracker) error {
		before, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		var starts, stops []time.Duration
		for i := range b.opt.pods {
			name := fmt.Sprintf("one-%d", i)
			begin := time.Now()
			if err := s.createPod(ctx, 0, name); err != nil {
				return err
			}
			at, err := t.await(ctx, "Running", t.running, name)
			if err != nil {
				return err
			}
			starts = append(starts, at.Sub(begin))
			if err := pause(ctx, trapTime); err != nil {
				return err
			}
			begin = time.Now()
			if err := s.deletePod(ctx, 0, name); err != nil {
				return err
			}
			if at, err = t.await(ctx, "gone", t.gone, name); err != nil {
				return err
			}
			stops = append(stops, at.Sub(begin))
		}
		after, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		n := fmt.Sprintf("%d pods, best %.0f, worst %.0f ms", len(starts), milliseconds(quantile(starts, 0)), milliseconds(quantile(starts, 1)))
		b.out.figure(figure{Name: "created to Running, p50", Value: milliseconds(quantile(starts, 0.5)), Unit: "ms", Target: 60, Upstream: 833, Detail: n})
		b.out.figure(figure{Name: "created to Running, p99", Value: milliseconds(quantile(starts, 0.99)), Unit: "ms", Target: 150, Upstream: 1994})
		b.out.figure(figure{Name: "deleted to gone, p50", Value: milliseconds(quantile(stops, 0.5)), Unit: "ms",
			Detail: fmt.Sprintf("p99 %.0f ms", milliseconds(quantile(stops, 0.99)))})
		b.out.figure(figure{Name: "CPU per pod, start and end", Value: milliseconds(after-before) / float64(len(starts)), Unit: "ms CPU", Detail: "cluster and pods"})
		return nil
	})
}

func podBurst(ctx context.Context, b *bench) error {
	return b.onPodStage(ctx, "pod-burst", func(s *stage, t *tracker) error {
		if err := pause(ctx, settleTime); err != nil {
			return err
		}
		memory, err := s.cluster.pss()
		if err != nil {
			return err
		}
		cpu, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		names := make([]string, burst)
		for i := range names {
			names[i] = fmt.Sprintf("burst-%d", i)
		}
		begin := time.Now()
		err = parallel(ctx, clients, burst, func(ctx context.Context, worker, i int) error { return s.createPod(ctx, worker, names[i]) })
		if err != nil {
			return err
		}
		created := time.Since(begin)
		last, err := t.await(ctx, "Running", t.running, names...)
		if err != nil {
			return err
		}
		cpuAfter, err := s.cluster.cpu()
		if err != nil {
			return err
		}
		if err := pause(ctx, settleTime); err != nil {
			return err
		}
		memoryAfter, err := s.cluster.pss()
		if err != nil {
			return err
		}
		deleted := time.Now()
		err = parallel(ctx, clients, burst, func(ctx context.Context, worker, i int) error { return s.deletePod(ctx, worker, names[i]) })
		if err != nil {
			return err
		}
		gone, err := t.await(ctx, "gone", t.gone, names...)
		if err != nil {
			return err
		}
		grown := float64(sum(memoryAfter)-sum(memory)) / 1e6
		b.out.figure(figure{Name: "until the last is Running", Value: last.Sub(begin).Seconds(), Unit: "s", Target: 1.5, Upstream: 5.8,
			Detail: fmt.Sprintf("%d pods; the creates took %.2f s, all gone %.2f s after the first delete", burst, created.Seconds(), gone.Sub(deleted).Seconds())})
		b.out.figure(figure{Name: "memory per pod", Value: max(grown/burst, 0), Unit: "MB", Target: 1, Upstream: 25,
			Detail: fmt.Sprintf("%.1f MB before, %.1f MB after", float64(sum(memory))/1e6, float64(sum(memoryAfter))/1e6)})
		b.out.figure(figure{Name: "CPU per pod", Value: milliseconds(cpuAfter-cpu) / burst, Unit: "ms CPU", Upstream: 217, Detail: "cluster and pods, until the last is Running"})
		return nil
	})
}
