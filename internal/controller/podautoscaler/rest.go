package podautoscaler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	custommetrics "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalmetrics "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	resourcemetrics "k8s.io/metrics/pkg/apis/metrics/v1"
)

// defaultWindow is what a custom metric covers that does not say.
const defaultWindow = time.Minute

// Resolve finds the resource of a kind in a version that is served.
type Resolve func(schema.GroupKind) (schema.GroupVersionResource, bool)

func (r Resolve) resource(gk schema.GroupKind) (schema.GroupVersionResource, error) {
	if gvr, ok := r(gk); ok {
		return gvr, nil
	}
	return schema.GroupVersionResource{}, &meta.NoKindMatchError{GroupKind: gk}
}

// API reads metrics and scales through REST.
type API struct {
	client  rest.Interface
	resolve Resolve
}

// NewAPI makes it over any REST client of the API server.
func NewAPI(c rest.Interface, resolve Resolve) *API { return &API{client: c, resolve: resolve} }

// get reads the JSON at a path into out.
func (a *API) get(ctx context.Context, out any, params map[string]labels.Selector, path ...string) error {
	r := a.client.Get().AbsPath(path...).SetHeader("Accept", runtime.ContentTypeJSON)
	for name, s := range params {
		if s != nil && !s.Empty() {
			r.Param(name, s.String())
		}
	}
	result := r.Do(ctx)
	if err := result.Error(); err != nil { // it reads more from the answer than Raw's does
		return err
	}
	data, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// errNoGroup says that nobody serves a group. It has no words: the error that it comes with has them.
var errNoGroup = errors.New("")

// asked says of an answer that is no Status what was asked for, as clients do that are made for the resource.
func asked(err error, group, resource, name string) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return err
	}
	said := ""
	for _, c := range status.Status().Details.Causes {
		if c.Type == metav1.CauseTypeUnexpectedServerResponse {
			said = c.Message
		}
	}
	return apierrors.NewGenericServerResponse(int(status.Status().Code), "get", schema.GroupResource{Group: group, Resource: resource}, name, said, 0, true)
}

// version is where the version of a group is that the server prefers, of those that we know, which all look the same to us.
func (a *API) version(ctx context.Context, name string, known ...string) (string, error) {
	var group metav1.APIGroup
	if err := a.get(ctx, &group, nil, "/apis/"+name); apierrors.IsNotFound(err) {
		return "", fmt.Errorf("%w%w", errNoGroup, err)
	} else if err != nil {
		return "", err
	}
	for _, v := range append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...) {
		if slices.Contains(known, v.Version) {
			return "/apis/" + name + "/" + v.Version, nil
		}
	}
	return "", fmt.Errorf("%s is served in no version that is known: %v", name, group.Versions)
}

// Resource implements Source over metrics.k8s.io.
func (a *API) Resource(ctx context.Context, namespace string, pods labels.Selector, resource corev1.ResourceName, container string) (Samples, error) {
	var list resourcemetrics.PodMetricsList
	root, err := a.version(ctx, resourcemetrics.GroupName, "v1", "v1beta1")
	if err == nil {
		err = a.get(ctx, &list, map[string]labels.Selector{"labelSelector": pods}, root, "namespaces", namespace, "pods")
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", asked(err, resourcemetrics.GroupName, "pods", ""))
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := make(Samples, len(list.Items))
	for i := range list.Items {
		m := &list.Items[i]
		if usage, ok := usageOf(m, resource, container); ok {
			out[m.Name] = Sample{Value: usage, At: m.Timestamp.Time, Window: m.Window.Duration}
		}
	}
	return out, nil
}

// usageOf is what a pod or one container of it uses; false if some container was not measured, or there is none of that name.
func usageOf(m *resourcemetrics.PodMetrics, resource corev1.ResourceName, container string) (int64, bool) {
	sum := int64(0)
	for i := range m.Containers {
		c := &m.Containers[i]
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Usage[resource]
		if !ok {
			return 0, false
		}
		sum += q.MilliValue()
		if container != "" {
			return sum, true
		}
	}
	return sum, container == "" && len(m.Containers) > 0
}

// customValue is a metric in either version.
type customValue struct {
	custommetrics.MetricValue
	// Window is what v1beta1 calls WindowSeconds.
	Window *int64 `json:"window"`
}

// custom asks for a metric of something in a namespace: path is "namespaces", its name, a resource, the name of an object and what else there is. That the
// resource is not known is told if there is anybody to ask.
func (a *API) custom(ctx context.Context, params map[string]labels.Selector, unknown error, path ...string) ([]customValue, error) {
	root, err := a.version(ctx, custommetrics.GroupName, "v1beta2", "v1beta1")
	var list struct {
		Items []customValue `json:"items"`
	}
	if err == nil {
		err = unknown
	}
	if err == nil {
		err = a.get(ctx, &list, params, append([]string{root}, path...)...)
	}
	if errors.Is(err, errNoGroup) {
		err = errors.New("no custom metrics API (" + custommetrics.GroupName + ") registered")
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", asked(err, custommetrics.GroupName, path[2], path[3]))
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	return list.Items, nil
}

// Pods implements Source over custom.metrics.k8s.io.
func (a *API) Pods(ctx context.Context, namespace, metric string, pods, series labels.Selector) (Samples, error) {
	items, err := a.custom(ctx, map[string]labels.Selector{"labelSelector": pods, "metricLabelSelector": series}, nil, "namespaces", namespace, "pods", "*", metric)
	if err != nil {
		return nil, err
	}
	out := make(Samples, len(items))
	for i := range items {
		m := &items[i]
		window := defaultWindow
		if s := cmp.Or(m.WindowSeconds, m.Window); s != nil {
			window = time.Duration(*s) * time.Second
		}
		out[m.DescribedObject.Name] = Sample{Value: m.Value.MilliValue(), At: m.Timestamp.Time, Window: window}
	}
	return out, nil
}

// Object implements Source over custom.metrics.k8s.io. A namespace is asked for itself, whatever its name in the reference.
func (a *API) Object(ctx context.Context, namespace, metric string, object *autoscalingv2.CrossVersionObjectReference, series labels.Selector) (int64, error) {
	path := []string{"namespaces", namespace, "metrics", metric}
	var unknown error
	if gk := schema.FromAPIVersionAndKind(object.APIVersion, object.Kind).GroupKind(); gk != (schema.GroupKind{Kind: "Namespace"}) {
		gvr, err := a.resolve.resource(gk)
		if err != nil {
			unknown = fmt.Errorf("unable to map kind %s to resource: %w", gk, err)
		}
		path = []string{"namespaces", namespace, gvr.GroupResource().String(), object.Name, metric}
	}
	items, err := a.custom(ctx, map[string]labels.Selector{"metricLabelSelector": series}, unknown, path...)
	if err != nil {
		return 0, err
	}
	return items[0].Value.MilliValue(), nil
}

// External implements Source over external.metrics.k8s.io.
func (a *API) External(ctx context.Context, namespace, metric string, series labels.Selector) ([]int64, error) {
	var list externalmetrics.ExternalMetricValueList
	if err := a.get(ctx, &list, map[string]labels.Selector{"labelSelector": series}, "/apis/external.metrics.k8s.io/v1beta1/namespaces", namespace, metric); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from external metrics API: %w", asked(err, externalmetrics.GroupName, metric, ""))
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from external metrics API")
	}
	out := make([]int64, len(list.Items))
	for i := range list.Items {
		out[i] = list.Items[i].Value.MilliValue()
	}
	return out, nil
}

// scalePath is where the scale of a workload is.
func (a *API) scalePath(namespace string, target *autoscalingv2.CrossVersionObjectReference) ([]string, error) {
	gv, err := schema.ParseGroupVersion(target.APIVersion)
	if err != nil {
		return nil, err
	}
	gvr, err := a.resolve.resource(schema.GroupKind{Group: gv.Group, Kind: target.Kind})
	if err != nil {
		return nil, err
	}
	root := []string{"/apis", gvr.Group, gvr.Version}
	if gvr.Group == "" {
		root = []string{"/api", gvr.Version}
	}
	return append(root, "namespaces", namespace, gvr.Resource, target.Name, "scale"), nil
}

// Scale implements Scales.
func (a *API) Scale(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error) {
	path, err := a.scalePath(namespace, target)
	if err != nil {
		return nil, err
	}
	var scale autoscalingv1.Scale
	if err := a.get(ctx, &scale, nil, path...); err != nil {
		return nil, err
	}
	return &scale, nil
}

// HasScale says whether the objects of a kind have a scale, and the resource that they are.
func (a *API) HasScale(ctx context.Context, kind schema.GroupKind) (schema.GroupResource, bool, error) {
	gvr, err := a.resolve.resource(kind)
	if err != nil {
		return schema.GroupResource{}, false, err
	}
	path := []string{"/apis", gvr.Group, gvr.Version}
	if gvr.Group == "" {
		path = []string{"/api", gvr.Version}
	}
	var list metav1.APIResourceList
	if err := a.get(ctx, &list, nil, path...); err != nil {
		return schema.GroupResource{}, false, err
	}
	is := func(r metav1.APIResource) bool { return r.Name == gvr.Resource+"/scale" }
	return gvr.GroupResource(), slices.ContainsFunc(list.APIResources, is), nil
}

// Resize implements Scales.
func (a *API) Resize(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference, scale *autoscalingv1.Scale) error {
	path, err := a.scalePath(namespace, target)
	if err != nil {
		return err
	}
	data, err := json.Marshal(scale)
	if err != nil {
		return fmt.Errorf("encode scale: %w", err)
	}
	return a.client.Put().AbsPath(path...).SetHeader("Content-Type", runtime.ContentTypeJSON).SetHeader("Accept", runtime.ContentTypeJSON).Body(data).Do(ctx).Error()
}
