package resourcemetrics

import (
	"cmp"
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/celox/celox/internal/apiserver/discovery"
)

// Group is the API group.
const Group = metricsv1.GroupName

// GroupVersions are what the package serves, the preferred first. The objects of both are the same but for their apiVersion, in JSON and in
// protobuf, so that those of v1 are made for both.
func GroupVersions() []schema.GroupVersion {
	return []schema.GroupVersion{metricsv1.SchemeGroupVersion, v1beta1.SchemeGroupVersion}
}

// The names of the resources, and of their objects in messages.
const (
	nodesResource = "nodes"
	podsResource  = "pods"
	nodeObjects   = "nodemetrics"
	podObjects    = "podmetrics"
)

// Objects finds what is measured; what it returns is only read. A missing object is a NotFound error of the API.
type Objects interface {
	Node(ctx context.Context, name string) (*corev1.Node, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	// Pods returns the pods of a namespace; "" is all.
	Pods(ctx context.Context, namespace string) ([]*corev1.Pod, error)
}

// API has the objects of metrics.k8s.io. It may be used from many goroutines.
type API struct {
	collector *Collector
	objects   Objects
	documents
}

// New makes an API. replaced says whether another server has a version of the group now: then nothing is described here, so that nobody who
// chooses a version asks two servers.
func New(c *Collector, objects Objects, replaced func() bool) *API {
	return &API{collector: c, objects: objects, documents: documents{replaced}}
}

// Version has the objects in one version of the group.
type Version struct {
	*API
	apiVersion string
}

// In returns the objects of a version, one of GroupVersions.
func (a *API) In(gv schema.GroupVersion) Version { return Version{a, gv.String()} }

// Get returns what one node or pod uses.
func (a Version) Get(ctx context.Context, res, namespace, name string) (runtime.Object, error) {
	switch res {
	case nodesResource:
		node, err := a.objects.Node(ctx, name)
		if err != nil {
			return nil, err
		}
		readings, err := a.collector.usage(ctx)
		if err != nil {
			return nil, err
		}
		if m, ok := nodeMetrics(node, readings, a.now()); ok {
			m.TypeMeta = a.typeMeta("NodeMetrics")
			return &m, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: Group, Resource: nodeObjects}, name)
	case podsResource:
		pod, err := a.objects.Pod(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		readings, err := a.collector.usage(ctx)
		if err != nil {
			return nil, err
		}
		if m, ok := podMetrics(pod, readings, a.now()); ok {
			m.TypeMeta = a.typeMeta("PodMetrics")
			return &m, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: Group, Resource: podObjects}, namespace+"/"+name)
	}
	return nil, unknown(res)
}

// List returns what those nodes or pods use that the selectors match, of which nil is all, in the order of namespaces and names.
// Those are absent of which nothing can be said: they have just begun, or their node does not answer.
func (a Version) List(ctx context.Context, res, namespace string, ls labels.Selector, fs fields.Selector) (runtime.Object, error) {
	readings, err := a.collector.usage(ctx)
	if err != nil {
		return nil, err
	}
	now := a.now()
	switch res {
	case nodesResource:
		nodes, err := a.collector.nodes.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		list := &metricsv1.NodeMetricsList{TypeMeta: a.typeMeta("NodeMetricsList"), Items: []metricsv1.NodeMetrics{}}
		for _, n := range selected(nodes, ls, fs) {
			if m, ok := nodeMetrics(n, readings, now); ok {
				list.Items = append(list.Items, m)
			}
		}
		return list, nil
	case podsResource:
		pods, err := a.objects.Pods(ctx, namespace)
		if err != nil {
			return nil, err
		}
		list := &metricsv1.PodMetricsList{TypeMeta: a.typeMeta("PodMetricsList"), Items: []metricsv1.PodMetrics{}}
		for _, p := range selected(pods, ls, fs) {
			if m, ok := podMetrics(p, readings, now); ok {
				list.Items = append(list.Items, m)
			}
		}
		return list, nil
	}
	return nil, unknown(res)
}

func unknown(res string) error {
	return apierrors.NewNotFound(schema.GroupResource{Group: Group, Resource: res}, "")
}

func (a *API) now() metav1.Time { return metav1.NewTime(a.collector.clock.Now().UTC()).Rfc3339Copy() }

func (a Version) typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: a.apiVersion}
}

// selected are the objects that the selectors match, in order.
func selected[T metav1.Object](all []T, ls labels.Selector, fs fields.Selector) []T {
	out := make([]T, 0, len(all))
	for _, o := range all {
		if ls != nil && !ls.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		if fs != nil {
			set := fields.Set{"metadata.name": o.GetName()}
			if ns := o.GetNamespace(); ns != "" {
				set["metadata.namespace"] = ns
			}
			if !fs.Matches(set) {
				continue
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out
}

// objectMeta is the metadata of what is made now from a node or a pod.
func objectMeta(of metav1.Object, now metav1.Time) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: of.GetName(), Namespace: of.GetNamespace(), Labels: maps.Clone(of.GetLabels()), CreationTimestamp: now}
}

func nodeMetrics(n *corev1.Node, readings map[string]*pair, now metav1.Time) (m metricsv1.NodeMetrics, ok bool) {
	u, ok := readings[n.Name].node()
	if !ok {
		return m, false
	}
	return metricsv1.NodeMetrics{
		ObjectMeta: objectMeta(n, now), Timestamp: metav1.NewTime(u.at.UTC()), Window: metav1.Duration{Duration: u.window}, Usage: u.list(),
	}, true
}

// podMetrics makes the object of a pod. Its time is that of the container that was read first.
func podMetrics(p *corev1.Pod, readings map[string]*pair, now metav1.Time) (m metricsv1.PodMetrics, ok bool) {
	all, ok := readings[p.Spec.NodeName].pod(podKey{p.Namespace, p.Name})
	if !ok {
		return m, false
	}
	slices.SortFunc(all, func(a, b containerUsage) int { return cmp.Compare(a.name, b.name) })
	m = metricsv1.PodMetrics{ObjectMeta: objectMeta(p, now), Containers: make([]metricsv1.ContainerMetrics, 0, len(all))}
	for _, c := range all {
		if m.Timestamp.IsZero() || c.at.Before(m.Timestamp.Time) {
			m.Timestamp, m.Window = metav1.NewTime(c.at.UTC()), metav1.Duration{Duration: c.window}
		}
		m.Containers = append(m.Containers, metricsv1.ContainerMetrics{Name: c.name, Usage: c.list()})
	}
	return m, true
}

func (u usage) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(u.nanocores, resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(u.bytes, resource.BinarySI),
	}
}

// Table makes a table of what Get and List return: a column for each resource that is measured, named as the resource is.
func (a Version) Table(obj runtime.Object) *metav1.Table {
	t := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{}, Rows: []metav1.TableRow{}}
	switch o := obj.(type) {
	case *metricsv1.NodeMetrics:
		addRow(t, o, o.Usage, o.Window)
	case *metricsv1.NodeMetricsList:
		for i := range o.Items {
			m := &o.Items[i]
			m.TypeMeta = a.typeMeta("NodeMetrics")
			addRow(t, m, m.Usage, m.Window)
		}
	case *metricsv1.PodMetrics:
		addRow(t, o, sum(o), o.Window)
	case *metricsv1.PodMetricsList:
		for i := range o.Items {
			m := &o.Items[i]
			m.TypeMeta = a.typeMeta("PodMetrics")
			addRow(t, m, sum(m), m.Window)
		}
	}
	return t
}

func sum(m *metricsv1.PodMetrics) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := range m.Containers {
		for name, q := range m.Containers[i].Usage {
			total, ok := out[name]
			if ok {
				total.Add(q)
			} else {
				total = q.DeepCopy()
			}
			out[name] = total
		}
	}
	return out
}

type measured interface {
	runtime.Object
	metav1.Object
}

func addRow(t *metav1.Table, m measured, used corev1.ResourceList, window metav1.Duration) {
	if len(t.ColumnDefinitions) == 0 {
		t.ColumnDefinitions = []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
			{Name: string(corev1.ResourceCPU), Type: "string", Format: "quantity"},
			{Name: string(corev1.ResourceMemory), Type: "string", Format: "quantity"},
			{Name: "Window", Type: "string", Format: "duration"},
		}
	}
	cpu, memory := used[corev1.ResourceCPU], used[corev1.ResourceMemory]
	t.Rows = append(t.Rows, metav1.TableRow{
		Cells: []any{m.GetName(), cpu.String(), memory.String(), window.Duration.String()}, Object: runtime.RawExtension{Object: m},
	})
}

// resources are what discovery shows.
func resources() []metav1.APIResource {
	verbs := metav1.Verbs{"get", "list"}
	return []metav1.APIResource{
		{Name: nodesResource, Kind: "NodeMetrics", Verbs: verbs},
		{Name: podsResource, Kind: "PodMetrics", Namespaced: true, Verbs: verbs},
	}
}

// Resource tells whether there is a resource of that name, and whether its objects are in namespaces.
func (a *API) Resource(name string) (namespaced, ok bool) {
	for _, r := range resources() {
		if r.Name == name {
			return r.Namespaced, true
		}
	}
	return false, false
}

// The priorities of the APIServices, those of the server that this one stands in for.
const (
	GroupPriority   = 100
	VersionPriority = 100
)

// Revision implements discovery.Source: what is served never changes, but that another server takes the place of this one.
func (a *API) Revision() uint64 { return a.documents.Revision() }

// Groups implements discovery.Source.
func (a *API) Groups() []string {
	if a.replaced() {
		return nil
	}
	return []string{Group}
}

// GroupRevision implements discovery.Source.
func (a *API) GroupRevision(name string) uint64 {
	if name == Group && !a.replaced() {
		return 1
	}
	return 0
}

// Group implements discovery.Source.
func (a *API) Group(name string) discovery.Group {
	g := discovery.Group{Name: name}
	if name != Group || a.replaced() {
		return g
	}
	g.Priority = GroupPriority
	for _, gv := range GroupVersions() {
		g.Versions = append(g.Versions, discovery.Version{Version: gv.Version, Resources: resources()})
	}
	return g
}
