package ingress

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/atomicfile"
	"github.com/celox/celox/internal/network/ingress/route"
)

const (
	// keepMagic begins the file; its number changes with the format.
	keepMagic = "celox ingress 1\n"
	// keepEvery is how long changes are gathered before they are written, and keepShare how many times longer than writing takes at least.
	keepEvery = 5 * time.Second
	keepShare = 200
	// keepPatience is how long the API may take for its first words before the file counts: a node that was away for long should not serve by it without need.
	keepPatience = 2 * time.Second
)

// Keep says where a node has what it serves, for a start while the API is away. Certificates with their keys, and passwords, are in it: nobody but root may read it.
type Keep struct {
	// Path of the file, in a directory that is there.
	Path string
	// Cluster is which cluster this is; a file of another one is not used.
	Cluster string
}

// source is what a table is made of: the informers, or what an earlier life has kept.
type source struct {
	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
}

// ours are the Ingresses that are for us, and all classes.
func (s *source) ours() ([]*networkingv1.Ingress, []*networkingv1.IngressClass, error) {
	all, err := s.ingresses.List(labels.Everything())
	classes, err2 := s.classes.List(labels.Everything())
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(i *networkingv1.Ingress) bool { return !route.Ours(i, classes) }), classes, nil
}

// slicesOf are the endpoint slices of a service.
func (s *source) slicesOf(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return s.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
}

// kept is what a file has.
type kept struct {
	source
	secrets map[types.NamespacedName]*corev1.Secret
}

// keeper writes the file.
type keeper struct {
	Keep
	log     *slog.Logger
	changed chan struct{} // capacity 1
	written []byte        // what the file has; nil if there is none
}

// newKeeper reads the file, if there is one. Without one that is good there is nothing kept.
func newKeeper(keep Keep, log *slog.Logger) (*keeper, *kept) {
	k := &keeper{Keep: keep, log: log, changed: make(chan struct{}, 1)}
	data, err := os.ReadFile(k.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	var have *kept
	if err == nil {
		k.written = data
		have, err = restore(k.Cluster, data)
	}
	if err != nil {
		log.Warn("ingress: what an earlier life kept cannot be used; nothing is served until the API says what", "file", k.Path, "err", err)
		return k, nil
	}
	return k, have
}

func (k *keeper) poke() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// run writes the file when state has something new, until ctx ends, and then for the last time.
func (k *keeper) run(ctx context.Context, state func() (*contents, error)) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			select {
			case <-k.changed:
				k.write(state)
			default:
			}
			return
		case <-wait.C:
		}
		select { // nothing runs while nothing changes
		case <-ctx.Done():
			continue // for the last time
		case <-k.changed:
		}
		begin := time.Now()
		k.write(state)
		wait.Reset(max(keepEvery, keepShare*time.Since(begin)))
	}
}

// write replaces the file if it would be another. Without Ingresses there is none: keys should not lie where nobody needs them.
func (k *keeper) write(state func() (*contents, error)) {
	c, err := state()
	if err == nil && len(c.ingresses.Items) == 0 {
		if err = os.Remove(k.Path); err == nil || errors.Is(err, fs.ErrNotExist) {
			k.written, err = nil, nil
		}
	} else if err == nil {
		var data []byte
		if data, err = c.encode(k.Cluster); err == nil && !bytes.Equal(data, k.written) {
			if err = atomicfile.Write(k.Path, data, 0o600, atomicfile.Synced); err == nil {
				k.written = data
			}
		}
	}
	if err != nil {
		k.log.Warn("ingress: what is served cannot be kept for a start without the API", "file", k.Path, "err", err)
	}
}

// contents are what is in a file.
type contents struct {
	ingresses networkingv1.IngressList
	classes   networkingv1.IngressClassList
	services  corev1.ServiceList
	slices    discoveryv1.EndpointSliceList
	secrets   corev1.SecretList
}

// message is what all of them can do.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func (c *contents) parts() []message {
	return []message{&c.ingresses, &c.classes, &c.services, &c.slices, &c.secrets}
}

// contents are what is served now, without what serving doesn't need.
func (g *Ingress) contents() (*contents, error) {
	g.mu.Lock()
	used, secrets := slices.Collect(maps.Keys(g.used)), g.secrets
	g.mu.Unlock()
	ours, classes, err := g.live.ours()
	if err != nil {
		return nil, err
	}
	c := &contents{}
	for _, i := range ours {
		out := networkingv1.Ingress{ObjectMeta: about(i), Spec: i.Spec}
		out.Annotations = maps.Clone(i.Annotations)
		delete(out.Annotations, corev1.LastAppliedConfigAnnotation)
		c.ingresses.Items = append(c.ingresses.Items, out)
	}
	for _, i := range classes {
		out := networkingv1.IngressClass{ObjectMeta: about(i), Spec: networkingv1.IngressClassSpec{Controller: i.Spec.Controller}}
		if is, said := i.Annotations[networkingv1.AnnotationIsDefaultIngressClass]; said {
			out.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: is}
		}
		c.classes.Items = append(c.classes.Items, out)
	}
	for _, n := range used {
		s, err := g.live.services.Services(n.Namespace).Get(n.Name)
		if err != nil {
			continue // listers know no other error than that it is gone
		}
		out := corev1.Service{ObjectMeta: about(s), Spec: corev1.ServiceSpec{Type: s.Spec.Type}}
		for _, p := range s.Spec.Ports {
			out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port, AppProtocol: p.AppProtocol})
		}
		c.services.Items = append(c.services.Items, out)
		of, err := g.live.slicesOf(n.Namespace, n.Name)
		if err != nil {
			return nil, err
		}
		for _, s := range of {
			out := discoveryv1.EndpointSlice{ObjectMeta: about(s), AddressType: s.AddressType, Ports: s.Ports}
			out.Labels = map[string]string{discoveryv1.LabelServiceName: n.Name}
			for _, e := range s.Endpoints {
				out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions})
			}
			c.slices.Items = append(c.slices.Items, out)
		}
	}
	for _, s := range secrets {
		out := corev1.Secret{ObjectMeta: about(s), Type: s.Type, Data: s.Data}
		out.UID, out.ResourceVersion = s.UID, s.ResourceVersion // by which a certificate is known again
		c.secrets.Items = append(c.secrets.Items, out)
	}
	c.sort()
	return c, nil
}

// about is what identifies an object, and says which is older.
func about(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), CreationTimestamp: o.GetCreationTimestamp()}
}

// sort gives the same contents the same form.
func (c *contents) sort() {
	// The objects stay where they are until they are swapped: they are large, and a sort of values copies two for each comparison.
	byName := func(items any, at func(int) metav1.Object) {
		sort.Slice(items, func(i, j int) bool {
			a, b := at(i), at(j)
			return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName())) < 0
		})
	}
	byName(c.ingresses.Items, func(i int) metav1.Object { return &c.ingresses.Items[i] })
	byName(c.classes.Items, func(i int) metav1.Object { return &c.classes.Items[i] })
	byName(c.services.Items, func(i int) metav1.Object { return &c.services.Items[i] })
	byName(c.slices.Items, func(i int) metav1.Object { return &c.slices.Items[i] })
	byName(c.secrets.Items, func(i int) metav1.Object { return &c.secrets.Items[i] })
}

func (c *contents) encode(cluster string) ([]byte, error) {
	out := appendPart([]byte(keepMagic), []byte(cluster))
	for _, list := range c.parts() {
		part, err := list.Marshal()
		if err != nil {
			return nil, err
		}
		out = appendPart(out, part)
	}
	return appendSum(out), nil
}

// appendSum appends what tells damage.
func appendSum(out []byte) []byte { return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out)) }

func appendPart(out, part []byte) []byte {
	return append(binary.BigEndian.AppendUint32(out, uint32(len(part))), part...)
}

var (
	errDamaged      = errors.New("the file is damaged, or of another version")
	errOtherCluster = errors.New("the file is of another cluster")
)

// decode reads what encode wrote.
func (c *contents) decode(cluster string, data []byte) error {
	rest, ok := bytes.CutPrefix(data, []byte(keepMagic))
	if !ok || len(rest) < 4 || crc32.ChecksumIEEE(data[:len(data)-4]) != binary.BigEndian.Uint32(data[len(data)-4:]) {
		return errDamaged
	}
	rest = rest[:len(rest)-4]
	next := func() ([]byte, error) {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return nil, errDamaged
		}
		n := binary.BigEndian.Uint32(rest)
		part := rest[4 : 4+n]
		rest = rest[4+n:]
		return part, nil
	}
	name, err := next()
	if err != nil {
		return err
	}
	if string(name) != cluster {
		return errOtherCluster
	}
	for _, list := range c.parts() {
		part, err := next()
		if err != nil {
			return err
		}
		if err := list.Unmarshal(part); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	return nil
}

// restore is a source of what is in a file.
func restore(cluster string, data []byte) (*kept, error) {
	var c contents
	if err := c.decode(cluster, data); err != nil {
		return nil, err
	}
	index := func() cache.Indexer {
		return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	}
	ingresses, classes, services, endpoints := index(), index(), index(), index()
	k := &kept{secrets: map[types.NamespacedName]*corev1.Secret{}, source: source{
		networkinglisters.NewIngressLister(ingresses), networkinglisters.NewIngressClassLister(classes), corelisters.NewServiceLister(services), discoverylisters.NewEndpointSliceLister(endpoints),
	}}
	var errs []error
	for i := range c.ingresses.Items {
		errs = append(errs, ingresses.Add(&c.ingresses.Items[i]))
	}
	for i := range c.classes.Items {
		errs = append(errs, classes.Add(&c.classes.Items[i]))
	}
	for i := range c.services.Items {
		errs = append(errs, services.Add(&c.services.Items[i]))
	}
	for i := range c.slices.Items {
		errs = append(errs, endpoints.Add(&c.slices.Items[i]))
	}
	for i := range c.secrets.Items {
		s := &c.secrets.Items[i]
		k.secrets[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = s
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return k, nil
}
