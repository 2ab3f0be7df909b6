package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/celox/celox/internal/scheduler"
	"github.com/celox/celox/internal/scheduler/config"
)

// Report is the explanation of one pod.
type Report struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Node is where the pod is; empty if it has no node.
	Node string `json:"node,omitempty"`
	// Summary says it in a sentence or two.
	Summary string `json:"summary"`
	// Obstacle is what keeps the pod from any node, whatever the nodes are like, and Advice what to do about it.
	Obstacle string `json:"obstacle,omitempty"`
	Advice   string `json:"advice,omitempty"`
	// Message is what the scheduler last said, in upstream's words.
	Message string `json:"message,omitempty"`
	// Nearest is the node that is the nearest to fitting, if none fits.
	Nearest string `json:"nearest,omitempty"`
	// Fitting is how many of the nodes fit.
	Fitting int `json:"fitting"`
	// Nodes are the best first, and those that don't fit the nearest first.
	Nodes []Node `json:"nodes"`
	// Unread are kinds that could not be read, so that nothing is said about them.
	Unread []string `json:"unread,omitempty"`
}

// Node is what speaks against a pod on a node.
type Node struct {
	Name string `json:"name"`
	Fits bool   `json:"fits"`
	// Score is how good the node is among those that fit.
	Score    int64     `json:"score,omitempty"`
	Problems []Problem `json:"problems,omitempty"`

	distance float64
}

// Problem is what one plugin has against a node.
type Problem struct {
	Plugin string `json:"plugin"`
	// Reason is in the scheduler's words, Change in plain ones: what would let the pod fit.
	Reason string `json:"reason"`
	Change string `json:"change"`
	// Evictable says that it might be helped by evicting other pods from the node.
	Evictable bool `json:"evictable,omitempty"`
}

// Explain reads the cluster and explains a pod. settings are those of the cluster's scheduler; nil is the defaults.
func Explain(ctx context.Context, c kubernetes.Interface, settings *config.Scheduler, namespace, name string) (*Report, error) {
	if settings == nil {
		settings = config.Default()
	}
	pod, err := c.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	r := &Report{Namespace: namespace, Pod: name, Node: pod.Spec.NodeName}
	for _, cond := range pod.Status.Conditions {
		if cond.Type == v1.PodScheduled && cond.Status != v1.ConditionTrue {
			r.Message = cond.Message
		}
	}
	w, err := read(ctx, c, r)
	if err != nil {
		return nil, err
	}
	profile := settings.Profile(pod.Spec.SchedulerName)
	if profile == nil {
		profile = &settings.Profiles[0]
		r.obstruct(fmt.Sprintf("it asks for the scheduler %q, which isn't this cluster's own", pod.Spec.SchedulerName),
			fmt.Sprintf("run that scheduler, or make the pod with schedulerName: %s; what follows is what %s would say", profile.SchedulerName, profile.SchedulerName))
	}
	if n := len(pod.Spec.SchedulingGates); n > 0 {
		var gates []string
		for _, g := range pod.Spec.SchedulingGates {
			gates = append(gates, g.Name)
		}
		r.obstruct("it has scheduling gates ("+strings.Join(gates, ", ")+")", "whoever put them there has to take them off; nobody schedules it before")
	}
	if pod.DeletionTimestamp != nil {
		r.obstruct("it is being deleted", "nothing: it gets no node any more")
	}
	s := w.snapshot(settings, pod)
	asked := pod.DeepCopy()
	asked.Spec.NodeName = "" // as it was before it got one
	verdicts, plugin, whole := s.Diagnose(s.NewPod(asked))
	if whole != "" {
		r.obstruct(plugin+": "+whole, w.adviceWhole(plugin, r, asked))
	}
	for _, v := range verdicts {
		n := Node{Name: v.Node, Fits: len(v.Refusals) == 0, Score: v.Score}
		for _, ref := range v.Refusals {
			change, distance := w.advise(asked, v.Node, ref)
			n.Problems = append(n.Problems, Problem{Plugin: ref.Plugin, Reason: strings.Join(ref.Reasons, ", "), Change: change, Evictable: !ref.Helpless})
			n.distance += distance
		}
		if n.Fits {
			r.Fitting++
		}
		r.Nodes = append(r.Nodes, n)
	}
	slices.SortStableFunc(r.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(b.Score, a.Score), strings.Compare(a.Name, b.Name))
	})
	r.summarize(pod)
	return r, nil
}

func (r *Report) obstruct(what, advice string) {
	if r.Obstacle != "" {
		r.Obstacle += "; "
		r.Advice += "; "
	}
	r.Obstacle += what
	r.Advice += advice
}

// summarize says it all in short.
func (r *Report) summarize(pod *v1.Pod) {
	name := r.Namespace + "/" + r.Pod
	all := len(r.Nodes)
	switch {
	case r.Node != "":
		r.Summary = fmt.Sprintf("Pod %s is on node %s.", name, r.Node)
		i := slices.IndexFunc(r.Nodes, func(n Node) bool { return n.Name == r.Node })
		switch {
		case i < 0:
			r.Summary += " There is no such node any more."
		case !r.Nodes[i].Fits:
			r.Summary += " Today it would not be put there: " + r.Nodes[i].Problems[0].Change + "."
		case i == 0:
			r.Summary += fmt.Sprintf(" It would be put there today, too: of %d nodes %d fit, and this one is the best (score %d).", all, r.Fitting, r.Nodes[i].Score)
		default:
			r.Summary += fmt.Sprintf(" Today %s would be better (score %d against %d): of %d nodes %d fit.", r.Nodes[0].Name, r.Nodes[0].Score, r.Nodes[i].Score, all, r.Fitting)
		}
	case r.Obstacle != "":
		r.Summary = fmt.Sprintf("Pod %s has no node because %s.", name, r.Obstacle)
	case all == 0:
		r.Summary = fmt.Sprintf("Pod %s has no node because there are no nodes.", name)
		r.Advice = "add a node"
	case r.Fitting > 0:
		r.Summary = fmt.Sprintf("Pod %s has no node yet, but %d of %d fit now, %s best.", name, r.Fitting, all, r.Nodes[0].Name)
		if pod.Status.NominatedNodeName != "" {
			r.Summary += fmt.Sprintf(" Others make room for it on %s.", pod.Status.NominatedNodeName)
		}
	default:
		r.Nearest = r.Nodes[0].Name
		r.Summary = fmt.Sprintf("Pod %s has no node because none of %d fits.", name, all)
		if n := pod.Status.NominatedNodeName; n != "" {
			r.Summary += fmt.Sprintf(" Others are being evicted for it from %s.", n)
		}
		var changes []string
		for _, p := range r.Nodes[0].Problems {
			if !slices.Contains(changes, p.Change) { // two plugins may want the same
				changes = append(changes, p.Change)
			}
		}
		r.Advice = fmt.Sprintf("the nearest is %s: %s", r.Nearest, strings.Join(changes, "; and "))
	}
}

// world is what was read from the API.
type world struct {
	nodes     map[string]*v1.Node
	pods      []v1.Pod
	objects   []func(*scheduler.Snapshot)
	claims    map[types.NamespacedName]bool // volume claims that are there, as far as the snapshot was told of them
	selectors func(*v1.Pod) labels.Selector
}

// read lists what the scheduler looks at. Nodes and pods must be readable; without the rest less is known.
func read(ctx context.Context, c kubernetes.Interface, r *Report) (*world, error) {
	w := &world{nodes: map[string]*v1.Node{}, claims: map[types.NamespacedName]bool{}}
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		w.nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	pods, err := c.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	w.pods = pods.Items
	core, storage, apps := c.CoreV1(), c.StorageV1(), c.AppsV1()
	services, controllers, sets, stateful := newIndexer(), newIndexer(), newIndexer(), newIndexer()
	w.selectors = scheduler.SelectedBy(corelisters.NewServiceLister(services), corelisters.NewReplicationControllerLister(controllers),
		appslisters.NewReplicaSetLister(sets), appslisters.NewStatefulSetLister(stateful))
	o := metav1.ListOptions{}
	for _, err := range []error{
		gather(w, r, "namespaces", func() (runtime.Object, error) { return core.Namespaces().List(ctx, o) }, func(s *scheduler.Snapshot, n *v1.Namespace) {
			l := n.Labels
			if l == nil {
				l = map[string]string{}
			}
			s.SetNamespace(n.Name, l)
		}),
		gather(w, r, "persistentvolumeclaims", func() (runtime.Object, error) { return core.PersistentVolumeClaims("").List(ctx, o) }, func(s *scheduler.Snapshot, c *v1.PersistentVolumeClaim) {
			w.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = true
			s.SetClaim(c)
		}),
		gather(w, r, "persistentvolumes", func() (runtime.Object, error) { return core.PersistentVolumes().List(ctx, o) }, (*scheduler.Snapshot).SetVolume),
		gather(w, r, "storageclasses", func() (runtime.Object, error) { return storage.StorageClasses().List(ctx, o) }, (*scheduler.Snapshot).SetStorageClass),
		gather(w, r, "csinodes", func() (runtime.Object, error) { return storage.CSINodes().List(ctx, o) }, (*scheduler.Snapshot).SetCSINode),
		gather(w, r, "csidrivers", func() (runtime.Object, error) { return storage.CSIDrivers().List(ctx, o) }, (*scheduler.Snapshot).SetCSIDriver),
		gather(w, r, "csistoragecapacities", func() (runtime.Object, error) { return storage.CSIStorageCapacities("").List(ctx, o) }, (*scheduler.Snapshot).SetStorageCapacity),
		gather(w, r, "resourceclaims", func() (runtime.Object, error) { return c.ResourceV1().ResourceClaims("").List(ctx, o) }, func(s *scheduler.Snapshot, c *resourcev1.ResourceClaim) {
			s.SetResourceClaim(c)
		}),
		gather(w, r, "resourceslices", func() (runtime.Object, error) { return c.ResourceV1().ResourceSlices().List(ctx, o) }, (*scheduler.Snapshot).SetResourceSlice),
		gather(w, r, "deviceclasses", func() (runtime.Object, error) { return c.ResourceV1().DeviceClasses().List(ctx, o) }, func(s *scheduler.Snapshot, c *resourcev1.DeviceClass) { s.SetDeviceClass(c) }),
		gather(w, r, "devicetaintrules", func() (runtime.Object, error) { return c.ResourceV1().DeviceTaintRules().List(ctx, o) }, (*scheduler.Snapshot).SetDeviceTaintRule),
		// What selects the pod together with others: only its own namespace matters.
		collect(services, r, "services", func() (runtime.Object, error) { return core.Services(r.Namespace).List(ctx, o) }),
		collect(controllers, r, "replicationcontrollers", func() (runtime.Object, error) { return core.ReplicationControllers(r.Namespace).List(ctx, o) }),
		collect(sets, r, "replicasets", func() (runtime.Object, error) { return apps.ReplicaSets(r.Namespace).List(ctx, o) }),
		collect(stateful, r, "statefulsets", func() (runtime.Object, error) { return apps.StatefulSets(r.Namespace).List(ctx, o) }),
	} {
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// snapshot is the cluster without the pod that is asked about.
func (w *world) snapshot(settings *config.Scheduler, pod *v1.Pod) *scheduler.Snapshot {
	s := scheduler.NewSnapshotFor(1, settings.Profiles)
	s.SetSelectors(w.selectors)
	for _, n := range w.nodes {
		s.SetNode(n)
	}
	for _, set := range w.objects {
		set(s)
	}
	for i := range w.pods {
		p := &w.pods[i]
		if p.UID == pod.UID || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
			continue
		}
		if p.Spec.NodeName != "" {
			s.Place(s.NewPod(p), p.Spec.NodeName, false)
		} else if p.Status.NominatedNodeName != "" && p.DeletionTimestamp == nil {
			s.Nominate(s.NewPod(p), p.Status.NominatedNodeName)
		}
	}
	return s
}

// unreadable says that an error is no reason to give up: the reader may not, or the server doesn't have the kind.
func unreadable(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) }
