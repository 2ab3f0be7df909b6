package lookuptest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

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
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

// Store is a store of the kinds that package lookup reads.
type Store struct {
	*store.Store
	// Objects reads from it.
	Objects *lookup.Objects

	t         testing.TB
	resources map[reflect.Type]schema.GroupResource
	uids      int
}

// New starts a store that ends with the test.
func New(t testing.TB) *Store {
	t.Helper()
	engine := memory.New()
	s, err := store.New(t.Context(), engine, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := &Store{Store: s, t: t, resources: map[reflect.Type]schema.GroupResource{}}
	for gr, example := range map[string]store.Object{
		"namespaces": &corev1.Namespace{}, "nodes": &corev1.Node{}, "pods": &corev1.Pod{}, "services": &corev1.Service{},
		"secrets": &corev1.Secret{}, "serviceaccounts": &corev1.ServiceAccount{},
		"persistentvolumeclaims": &corev1.PersistentVolumeClaim{}, "persistentvolumes": &corev1.PersistentVolume{},
		"limitranges": &corev1.LimitRange{}, "resourcequotas": &corev1.ResourceQuota{},
		"priorityclasses.scheduling.k8s.io": &schedulingv1.PriorityClass{}, "runtimeclasses.node.k8s.io": &nodev1.RuntimeClass{},
		"storageclasses.storage.k8s.io": &storagev1.StorageClass{}, "volumeattachments.storage.k8s.io": &storagev1.VolumeAttachment{},
		"podcertificaterequests.certificates.k8s.io": &certificatesv1.PodCertificateRequest{},
		"csidrivers.storage.k8s.io":                  &storagev1.CSIDriver{},
		"resourceslices.resource.k8s.io":             &resourcev1.ResourceSlice{},
		"ingresses.networking.k8s.io":                &networkingv1.Ingress{}, "ingressclasses.networking.k8s.io": &networkingv1.IngressClass{}, "endpointslices.discovery.k8s.io": &discoveryv1.EndpointSlice{},
		"roles.rbac.authorization.k8s.io": &rbacv1.Role{}, "clusterroles.rbac.authorization.k8s.io": &rbacv1.ClusterRole{},
		"rolebindings.rbac.authorization.k8s.io": &rbacv1.RoleBinding{}, "clusterrolebindings.rbac.authorization.k8s.io": &rbacv1.ClusterRoleBinding{},
	} {
		gr := schema.ParseGroupResource(gr)
		typ := reflect.TypeOf(example).Elem()
		x.resources[typ] = gr
		r := store.Resource{GroupResource: gr, Prefix: gr.String(), Codec: codec{typ}, Namespaced: true}
		if gr.Resource == "pods" {
			r.Indexes = map[string]func(store.Object) []string{lookup.PodsByNode: func(o store.Object) []string {
				return []string{o.(*corev1.Pod).Spec.NodeName}
			}}
		}
		if _, err := s.Register(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	x.Objects = lookup.New(x.Reader)
	return x
}

// Reader finds a collection.
func (x *Store) Reader(gr schema.GroupResource) (store.Reader, bool) {
	c, ok := x.Collection(gr)
	return c, ok
}

// Put writes objects, and gives those without a uid one.
func (x *Store) Put(objs ...store.Object) {
	x.t.Helper()
	for _, obj := range objs {
		if obj.GetUID() == "" {
			x.uids++
			obj.SetUID(types.UID(fmt.Sprintf("uid-%d", x.uids)))
		}
		x.mutate(obj, store.Mutation{Object: obj.DeepCopyObject().(store.Object)})
	}
}

// Delete removes an object.
func (x *Store) Delete(obj store.Object) {
	x.t.Helper()
	x.mutate(obj, store.Mutation{Delete: true})
}

func (x *Store) mutate(obj store.Object, m store.Mutation) {
	x.t.Helper()
	gr := x.resources[reflect.TypeOf(obj).Elem()]
	c, ok := x.Collection(gr)
	if !ok {
		x.t.Fatalf("no collection for %T", obj)
	}
	key := strings.TrimPrefix(obj.GetNamespace()+"/"+obj.GetName(), "/")
	if _, err := c.Mutate(x.t.Context(), key, func(*store.Item) (store.Mutation, error) { return m, nil }); err != nil && !apierrors.IsNotFound(err) {
		x.t.Fatal(err)
	}
}

type codec struct{ typ reflect.Type }

func (codec) Append(to []byte, obj store.Object) ([]byte, error) {
	data, err := json.Marshal(obj)
	return append(to, data...), err
}

func (c codec) Decode(data []byte) (store.Object, error) {
	obj := reflect.New(c.typ).Interface().(store.Object)
	return obj, json.Unmarshal(data, obj)
}
