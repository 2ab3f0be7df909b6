package endpointslice

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "a"}, Ports: []corev1.ServicePort{{Port: 80}}, ClusterIP: corev1.ClusterIPNone,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		},
	}
	change(s)
	return s
}

// late is a client whose answers about made slices come after the controller has seen these.
type late struct {
	kubernetes.Interface
	mu   sync.Mutex // guards seen
	seen map[types.UID]chan struct{}
}

func (l *late) done(uid types.UID) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[uid] == nil {
		l.seen[uid] = make(chan struct{})
	}
	return l.seen[uid]
}

func (l *late) DiscoveryV1() discoveryclient.DiscoveryV1Interface {
	return lateDiscovery{l.Interface.DiscoveryV1(), l}
}

type lateDiscovery struct {
	discoveryclient.DiscoveryV1Interface
	late *late
}

func (d lateDiscovery) EndpointSlices(namespace string) discoveryclient.EndpointSliceInterface {
	return lateSlices{d.DiscoveryV1Interface.EndpointSlices(namespace), d.late}
}

type lateSlices struct {
	discoveryclient.EndpointSliceInterface
	late *late
}

func (s lateSlices) Create(ctx context.Context, slice *discoveryv1.EndpointSlice, o metav1.CreateOptions) (*discoveryv1.EndpointSlice, error) {
	made, err := s.EndpointSliceInterface.Create(ctx, slice, o)
	if err == nil {
		<-s.late.done(made.UID)
	}
	return made, err
}

// TestOwnSlicesAreNoNews: a slice that is seen before the call that made it has returned is known to be ours when it has: it isn't written again.
func TestOwnSlicesAreNoNews(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	l := &late{Interface: e.Client, seen: map[types.UID]chan struct{}{}}
	ctl, err := New(l, e.Informers, e.Recorder, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Handlers are called in turn: the controller's comes first.
	if _, err := e.Informers.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			close(l.done(s.UID))
		}
	}}); err != nil {
		t.Fatal(err)
	}
	e.Run(t, ctl)
	const many = 40 // nearly all would be written again
	for i := range many {
		s := service(func(s *corev1.Service) { s.Name = fmt.Sprintf("s%d", i) })
		if _, err := e.Client.CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var all *discoveryv1.EndpointSliceList
	controllertest.Eventually(t, func() error {
		if all, err = e.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{}); err == nil && len(all.Items) < many {
			err = fmt.Errorf("%d slices", len(all.Items))
		}
		return err
	})
	for _, s := range all.Items {
		if s.Annotations[corev1.EndpointsLastChangeTriggerTime] == "" { // it goes with a write that has no cause
			t.Errorf("%s was written again", s.Name)
		}
	}
	// What others do to a slice is seen.
	if err := e.Client.DiscoveryV1().EndpointSlices("default").Delete(ctx, all.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error {
		now, err := e.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + all.Items[0].Labels[discoveryv1.LabelServiceName]})
		if err == nil && (len(now.Items) != 1 || now.Items[0].UID == all.Items[0].UID) {
			err = fmt.Errorf("%d slices", len(now.Items))
		}
		return err
	})
}

// TestNothingToSay: the slice of a service without endpoints is written once, however often it is looked at.
func TestNothingToSay(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	ctl, err := New(e.Client, e.Informers, e.Recorder, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t)
	t.Cleanup(func() { // it has queues to end, though it did not run
		ended, end := context.WithCancel(ctx)
		end()
		if err := ctl.Run(ended); err != nil {
			t.Error(err)
		}
	})
	if _, err := e.Client.CoreV1().Services("default").Create(ctx, service(func(*corev1.Service) {}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, func() error { _, err := ctl.services.Services("default").Get("s"); return err })
	seen := func() (version string) {
		t.Helper()
		if _, err := ctl.sync("default/s"); err != nil {
			t.Fatal(err)
		}
		all, err := e.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(all.Items) != 1 {
			t.Fatalf("%d slices, %v", len(all.Items), err)
		}
		controllertest.Eventually(t, func() error {
			cached, err := ctl.slices("default", "s")
			if err == nil && (len(cached) != 1 || cached[0].ResourceVersion != all.Items[0].ResourceVersion) {
				err = fmt.Errorf("%d slices in the cache", len(cached))
			}
			return err
		})
		return all.Items[0].ResourceVersion
	}
	first := seen()
	if again := seen(); again != first {
		t.Errorf("written at %s and %s", first, again)
	}
}

// TestHintsOfZones: with topology-mode Auto endpoints are told by zones, by the shares of these in the nodes that are there and ready.
func TestHintsOfZones(t *testing.T) {
	e := controllertest.Start(t)
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctl, err := New(e.Client, e.Informers, e.Recorder, nil, nil)
	must(err)
	ready := corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	for node, zone := range map[string]string{"n1": "za", "n2": "zb"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{corev1.LabelTopologyZone: zone}}, Status: ready}
		_, err := e.Client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		must(err)
	}
	for i := range 6 {
		p, err := e.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"app": "a"}},
			Spec:       corev1.PodSpec{NodeName: fmt.Sprintf("n%d", i%2+1), Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		must(err)
		ip := fmt.Sprintf("10.42.0.%d", i+1)
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		_, err = e.Client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{})
		must(err)
	}
	_, err = e.Client.CoreV1().Services("default").Create(ctx, service(func(s *corev1.Service) {
		s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"}
	}), metav1.CreateOptions{})
	must(err)
	e.Run(t, ctl)
	// hinted says whether all endpoints have hints, or none has.
	hinted := func(want int) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			all, err := e.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			hints, endpoints := 0, 0
			for _, s := range all.Items {
				for _, ep := range s.Endpoints {
					endpoints++
					if ep.Hints != nil && len(ep.Hints.ForZones) == 1 {
						hints++
					}
				}
			}
			if endpoints != 6 || hints != want {
				return fmt.Errorf("%d endpoints, %d with a zone", endpoints, hints)
			}
			return nil
		})
	}
	hinted(6)
	n2, err := e.Client.CoreV1().Nodes().Get(ctx, "n2", metav1.GetOptions{})
	must(err)
	n2.Status.Conditions[0].Status = corev1.ConditionUnknown
	_, err = e.Client.CoreV1().Nodes().UpdateStatus(ctx, n2, metav1.UpdateOptions{})
	must(err)
	hinted(0) // all that is ready is in one zone now
}
