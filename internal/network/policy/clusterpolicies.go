package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// ClusterPoliciesDefinition names the definition of the kind. Nodes watch this one object, and the policies only while it is there.
const ClusterPoliciesDefinition = "clusternetworkpolicies.policy.networking.k8s.io"

// ClusterPolicies follows the ClusterNetworkPolicies, if the cluster has the kind.
type ClusterPolicies struct {
	client      rest.Interface
	definitions cache.SharedIndexInformer
	wake        chan struct{} // capacity 1
	changed     func(name string)

	mu       sync.Mutex
	policies cache.SharedIndexInformer // guarded by mu; nil without the kind
	settled  bool                      // guarded by mu: what there was at the start is known
}

// NewClusterPolicies returns what follows them by a client whose path doesn't matter.
func NewClusterPolicies(client rest.Interface) (*ClusterPolicies, error) {
	c := &ClusterPolicies{client: client, wake: make(chan struct{}, 1), changed: func(string) {}}
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, ClusterPoliciesDefinition).String()
	c.definitions = cache.NewSharedIndexInformerWithOptions(source[definitionList, kindDefinition](client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", only),
		&kindDefinition{}, cache.SharedIndexInformerOptions{ObjectDescription: "the definition of ClusterNetworkPolicy"})
	_, err := follow(c.definitions, func(any) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	})
	return c, err
}

// notify has somebody told of policies that changed, by their names.
func (c *ClusterPolicies) notify(changed func(name string)) { c.changed = changed }

// run follows the kind until ctx ends.
func (c *ClusterPolicies) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { c.definitions.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), c.definitions.HasSynced) {
		return nil
	}
	var policies sync.WaitGroup
	stop := func() {}
	defer func() {
		stop()
		policies.Wait()
	}()
	following := false
	for {
		switch served := c.served(); {
		case served && !following:
			informer := cache.NewSharedIndexInformerWithOptions(source[clusterPolicyList, ClusterNetworkPolicy](c.client, "/apis/"+ClusterGroupVersion+"/clusternetworkpolicies", ""),
				&ClusterNetworkPolicy{}, cache.SharedIndexInformerOptions{ObjectDescription: "ClusterNetworkPolicies"})
			synced, err := follow(informer, func(obj any) {
				if p, ok := obj.(*ClusterNetworkPolicy); ok {
					c.changed(p.Name)
				}
			})
			if err != nil {
				return err
			}
			inner, end := context.WithCancel(ctx)
			stop = end
			policies.Go(func() { informer.RunWithContext(inner) })
			c.set(informer)
			policies.Go(func() {
				if cache.WaitForCacheSync(inner.Done(), synced) {
					c.settle()
				}
			})
			following = true
		case !served:
			if following {
				stop()
				policies.Wait()
				c.forget()
				following = false
			}
			c.settle()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
	}
}

// served says whether the API has the kind, in the version that we know.
func (c *ClusterPolicies) served() bool {
	for _, obj := range c.definitions.GetStore().List() {
		if d, ok := obj.(*kindDefinition); ok && d.Name == ClusterPoliciesDefinition && d.DeletionTimestamp == nil && d.established() {
			return true
		}
	}
	return false
}

func (c *ClusterPolicies) set(informer cache.SharedIndexInformer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies = informer
}

func (c *ClusterPolicies) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled = true
}

// forget lets go all policies: the kind is gone, and they are with it.
func (c *ClusterPolicies) forget() {
	c.mu.Lock()
	gone := c.policies.GetStore().ListKeys()
	c.policies = nil
	c.mu.Unlock()
	for _, n := range gone {
		c.changed(n)
	}
}

// synced says whether the policies that there were at the start are known.
func (c *ClusterPolicies) synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settled
}

// get returns a policy, or nil.
func (c *ClusterPolicies) get(n string) *ClusterNetworkPolicy {
	c.mu.Lock()
	informer := c.policies
	c.mu.Unlock()
	if informer == nil {
		return nil
	}
	obj, there, err := informer.GetStore().GetByKey(n)
	if p, ok := obj.(*ClusterNetworkPolicy); ok && there && err == nil {
		return p
	}
	return nil
}

// kindDefinition is what is read of a CustomResourceDefinition.
type kindDefinition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Versions []struct {
			Name   string `json:"name"`
			Served bool   `json:"served"`
		} `json:"versions"`
	} `json:"spec"`
	Status struct {
		Conditions []struct {
			Type   string                 `json:"type"`
			Status metav1.ConditionStatus `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func (d *kindDefinition) established() bool {
	served, established := false, false
	for _, v := range d.Spec.Versions {
		served = served || v.Served && "policy.networking.k8s.io/"+v.Name == ClusterGroupVersion
	}
	for _, c := range d.Status.Conditions {
		established = established || c.Type == "Established" && c.Status == metav1.ConditionTrue
	}
	return served && established
}

// DeepCopyObject implements runtime.Object.
func (d *kindDefinition) DeepCopyObject() runtime.Object {
	out := *d
	d.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Spec.Versions, out.Status.Conditions = slices.Clone(d.Spec.Versions), slices.Clone(d.Status.Conditions)
	return &out
}

// definitionList is a list of them.
type definitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []kindDefinition `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *definitionList) DeepCopyObject() runtime.Object {
	out := &definitionList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		if c, ok := l.Items[i].DeepCopyObject().(*kindDefinition); ok {
			out.Items = append(out.Items, *c)
		}
	}
	return out
}

// objectOf is a pointer to T that is an object of the API.
type objectOf[T any] interface {
	*T
	runtime.Object
}

// source lists and watches what is at a path as JSON, which needs no more of a kind than its Go types.
func source[L, T any, LP objectOf[L], TP objectOf[T]](client rest.Interface, path, fieldSelector string) *cache.ListWatch {
	request := func(opts metav1.ListOptions) *rest.Request {
		opts.FieldSelector = fieldSelector
		return client.Get().AbsPath(path).SetHeader("Accept", runtime.ContentTypeJSON).VersionedParams(&opts, scheme.ParameterCodec)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			data, err := request(opts).DoRaw(ctx)
			if err != nil {
				return nil, err
			}
			list := LP(new(L))
			return list, json.Unmarshal(data, list)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.Watch = true
			body, err := request(opts).Stream(ctx)
			if err != nil {
				return nil, err
			}
			return watch.NewStreamWatcher(&events[T, TP]{body: body, from: json.NewDecoder(body)}, apierrors.NewClientErrorReporter(500, "WATCH", "ClientWatchDecoding")), nil
		},
	}
}

// events reads those of a watch. It implements watch.Decoder.
type events[T any, TP objectOf[T]] struct {
	body io.ReadCloser
	from *json.Decoder
}

// Decode implements watch.Decoder.
func (e *events[T, TP]) Decode() (watch.EventType, runtime.Object, error) {
	var got struct {
		Type   watch.EventType `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	if err := e.from.Decode(&got); err != nil {
		return "", nil, err
	}
	var obj runtime.Object = TP(new(T))
	if got.Type == watch.Error {
		obj = &metav1.Status{}
	}
	if err := json.Unmarshal(got.Object, obj); err != nil {
		return "", nil, fmt.Errorf("a watch event: %w", err)
	}
	return got.Type, obj, nil
}

// Close implements watch.Decoder.
func (e *events[T, TP]) Close() { _ = e.body.Close() }
