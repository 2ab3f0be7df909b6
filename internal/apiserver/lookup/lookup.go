package lookup

import (
	"context"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/store"
)

// PodsByNode is the name of the index of pods by the node that they are bound to.
const PodsByNode = "spec.nodeName"

// Objects reads from the collections of a store. Its methods may be called from many goroutines; what they return is
// read-only. A missing object is a NotFound error.
type Objects struct {
	reader func(schema.GroupResource) (store.Reader, bool)
}

// New returns an Objects over the collections that reader finds.
func New(reader func(schema.GroupResource) (store.Reader, bool)) *Objects {
	return &Objects{reader: reader}
}

func core(resource string) schema.GroupResource { return schema.GroupResource{Resource: resource} }

func get[T store.Object](ctx context.Context, o *Objects, gr schema.GroupResource, namespace, name string) (T, error) {
	var none T
	if name == "" {
		return none, apierrors.NewNotFound(gr, name)
	}
	r, ok := o.reader(gr)
	if !ok {
		return none, apierrors.NewInternalError(fmt.Errorf("the server does not keep %s", gr))
	}
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	item, err := r.Get(ctx, key, store.GetOptions{})
	if err != nil {
		return none, err
	}
	if item == nil {
		return none, apierrors.NewNotFound(gr, name)
	}
	obj, ok := item.Object.(T)
	if !ok {
		return none, apierrors.NewInternalError(fmt.Errorf("%s %s is held as a %T", gr, key, item.Object))
	}
	return obj, nil
}

func list[T store.Object](ctx context.Context, o *Objects, gr schema.GroupResource, opts store.ListOptions) ([]T, error) {
	r, ok := o.reader(gr)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the server does not keep %s", gr))
	}
	l, err := r.List(ctx, opts)
	if err != nil || len(l.Items) == 0 {
		return nil, err
	}
	out := make([]T, 0, len(l.Items))
	for _, item := range l.Items {
		obj, ok := item.Object.(T)
		if !ok {
			return nil, apierrors.NewInternalError(fmt.Errorf("%s %s is held as a %T", gr, item.Key, item.Object))
		}
		out = append(out, obj)
	}
	return out, nil
}

// Namespace returns a namespace.
func (o *Objects) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return get[*corev1.Namespace](ctx, o, core("namespaces"), "", name)
}

// Node returns a node.
func (o *Objects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return get[*corev1.Node](ctx, o, core("nodes"), "", name)
}

// Pod returns a pod.
func (o *Objects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return get[*corev1.Pod](ctx, o, core("pods"), namespace, name)
}

// Service returns a service.
func (o *Objects) Service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return get[*corev1.Service](ctx, o, core("services"), namespace, name)
}

// Secret returns a secret.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get[*corev1.Secret](ctx, o, core("secrets"), namespace, name)
}

// ServiceAccount returns a service account.
func (o *Objects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return get[*corev1.ServiceAccount](ctx, o, core("serviceaccounts"), namespace, name)
}

// ResourceSlice returns what a driver says of devices.
func (o *Objects) ResourceSlice(ctx context.Context, name string) (*resourcev1.ResourceSlice, error) {
	return get[*resourcev1.ResourceSlice](ctx, o, schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}, "", name)
}

// PodCertificateRequest returns a request for a pod's certificate.
func (o *Objects) PodCertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error) {
	return get[*certificatesv1.PodCertificateRequest](ctx, o, certificatesv1.Resource("podcertificaterequests"), namespace, name)
}

// PersistentVolumeClaim returns a claim.
func (o *Objects) PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return get[*corev1.PersistentVolumeClaim](ctx, o, core("persistentvolumeclaims"), namespace, name)
}

// PersistentVolume returns a volume.
func (o *Objects) PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return get[*corev1.PersistentVolume](ctx, o, core("persistentvolumes"), "", name)
}

// PodsOnNode returns the pods that are bound to a node.
func (o *Objects) PodsOnNode(ctx context.Context, node string) ([]*corev1.Pod, error) {
	return list[*corev1.Pod](ctx, o, core("pods"), store.ListOptions{Index: PodsByNode, IndexValue: node})
}

// Pods returns the pods of a namespace.
func (o *Objects) Pods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	return list[*corev1.Pod](ctx, o, core("pods"), store.ListOptions{Namespace: namespace})
}

// LimitRanges returns the limit ranges of a namespace.
func (o *Objects) LimitRanges(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	return list[*corev1.LimitRange](ctx, o, core("limitranges"), store.ListOptions{Namespace: namespace})
}

// ResourceQuotas returns the quotas of a namespace.
func (o *Objects) ResourceQuotas(ctx context.Context, namespace string) ([]*corev1.ResourceQuota, error) {
	return list[*corev1.ResourceQuota](ctx, o, core("resourcequotas"), store.ListOptions{Namespace: namespace})
}

// PriorityClass returns a priority class.
func (o *Objects) PriorityClass(ctx context.Context, name string) (*schedulingv1.PriorityClass, error) {
	return get[*schedulingv1.PriorityClass](ctx, o, schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}, "", name)
}

// PriorityClasses returns all priority classes.
func (o *Objects) PriorityClasses(ctx context.Context) ([]*schedulingv1.PriorityClass, error) {
	return list[*schedulingv1.PriorityClass](ctx, o, schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}, store.ListOptions{})
}

// RuntimeClass returns a runtime class.
func (o *Objects) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	return get[*nodev1.RuntimeClass](ctx, o, schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}, "", name)
}

// StorageClass returns a storage class.
func (o *Objects) StorageClass(ctx context.Context, name string) (*storagev1.StorageClass, error) {
	return get[*storagev1.StorageClass](ctx, o, schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}, "", name)
}

// StorageClasses returns all storage classes.
func (o *Objects) StorageClasses(ctx context.Context) ([]*storagev1.StorageClass, error) {
	return list[*storagev1.StorageClass](ctx, o, schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}, store.ListOptions{})
}

// CSIDriver returns a storage driver.
func (o *Objects) CSIDriver(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	return get[*storagev1.CSIDriver](ctx, o, schema.GroupResource{Group: "storage.k8s.io", Resource: "csidrivers"}, "", name)
}

// VolumeAttachment returns a volume attachment.
func (o *Objects) VolumeAttachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return get[*storagev1.VolumeAttachment](ctx, o, schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}, "", name)
}

// Ingresses returns the ingresses of a namespace.
func (o *Objects) Ingresses(ctx context.Context, namespace string) ([]*networkingv1.Ingress, error) {
	return list[*networkingv1.Ingress](ctx, o, schema.GroupResource{Group: "networking.k8s.io", Resource: "ingresses"}, store.ListOptions{Namespace: namespace})
}

// IngressClasses returns all ingress classes.
func (o *Objects) IngressClasses(ctx context.Context) ([]*networkingv1.IngressClass, error) {
	return list[*networkingv1.IngressClass](ctx, o, schema.GroupResource{Group: "networking.k8s.io", Resource: "ingressclasses"}, store.ListOptions{})
}

// EndpointSlices returns the endpoint slices of a service.
func (o *Objects) EndpointSlices(ctx context.Context, namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return list[*discoveryv1.EndpointSlice](ctx, o, schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, store.ListOptions{
		Namespace: namespace,
		Filter:    func(obj store.Object) bool { return obj.GetLabels()[discoveryv1.LabelServiceName] == service },
	})
}

func rbacResource(resource string) schema.GroupResource {
	return schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
}

// RBACReaders returns the readers of the four kinds that RBAC is made of.
func (o *Objects) RBACReaders() (roles, roleBindings, clusterRoles, clusterRoleBindings store.Reader, err error) {
	var missing error
	reader := func(resource string) store.Reader {
		r, ok := o.reader(rbacResource(resource))
		if !ok {
			missing = errors.Join(missing, fmt.Errorf("the store keeps no %s", resource))
		}
		return r
	}
	roles, roleBindings = reader("roles"), reader("rolebindings")
	clusterRoles, clusterRoleBindings = reader("clusterroles"), reader("clusterrolebindings")
	return roles, roleBindings, clusterRoles, clusterRoleBindings, missing
}
