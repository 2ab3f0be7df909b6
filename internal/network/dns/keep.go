package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/atomicfile"
)

const (
	// keepMagic begins the file of what a zone knows; its number changes with the format.
	keepMagic = "celox names 1\n"
	// keepEvery is how long changes are gathered before they are written, and keepShare how many times longer than writing takes at least.
	keepEvery = 10 * time.Second
	keepShare = 200
)

// Keeper keeps what a zone knows in a file, so that a node that starts while the API is away has the names that it had before.
type Keeper struct {
	zone *Zone
	path string
	log  *slog.Logger
}

// Keep lets the zone answer from what the file has, if there is one, until the informers know better. The keeper has to run for the file to be there.
func (z *Zone) Keep(path string, log *slog.Logger) (*Keeper, error) {
	k := &Keeper{zone: z, path: path, log: log}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return k, nil
	case err != nil:
		return nil, fmt.Errorf("dns: %w", err)
	}
	if z.kept, err = restore(z.domain, data); err != nil {
		log.Warn("dns: names of an earlier life cannot be used", "file", path, "err", err)
	}
	return k, nil
}

// now is the zone to ask: the kept one as long as the informers have not heard of everything.
func (z *Zone) now() *Zone {
	if z.kept != nil && !z.ready() {
		return z.kept
	}
	return z
}

// Run writes the file when the zone has changed, until ctx ends, and then for the last time.
func (k *Keeper) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), k.zone.synced...) {
		return nil // what the file has is better
	}
	wait := time.NewTimer(keepEvery)
	defer wait.Stop()
	var written uint64 // the generation that the file has
	for {
		select {
		case <-ctx.Done():
			if k.zone.generation.Load() != written {
				k.write()
			}
			return nil
		case <-wait.C:
		}
		select { // nothing runs while nothing changes
		case <-ctx.Done():
			return nil
		case <-k.zone.changed:
		}
		begin := time.Now()
		written = k.zone.generation.Load()
		k.write()
		wait.Reset(max(keepEvery, keepShare*time.Since(begin)))
	}
}

func (k *Keeper) write() {
	data, err := k.zone.save()
	if err == nil {
		err = atomicfile.Write(k.path, data, 0o600, atomicfile.Unsynced) // a damaged one is known by its sum
	}
	if err != nil {
		k.log.Warn("dns: names cannot be kept for a time without the API", "err", err)
	}
}

// save is what the zone knows, without what names don't need.
func (z *Zone) save() ([]byte, error) {
	var services corev1.ServiceList
	for _, obj := range z.byAddress.List() {
		s := obj.(*corev1.Service)
		out := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}}
		out.Spec.Type, out.Spec.ClusterIP, out.Spec.ClusterIPs, out.Spec.ExternalName = s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.ExternalName
		for _, p := range s.Spec.Ports {
			out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
		}
		services.Items = append(services.Items, out)
	}
	var slices discoveryv1.EndpointSliceList
	for _, obj := range z.slices.List() {
		s := obj.(*discoveryv1.EndpointSlice)
		service := s.Labels[discoveryv1.LabelServiceName]
		if service == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		out := discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: s.AddressType, Ports: s.Ports,
		}
		for _, e := range s.Endpoints {
			out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{Addresses: e.Addresses, Hostname: e.Hostname, Conditions: discoveryv1.EndpointConditions{Ready: e.Conditions.Ready}})
		}
		slices.Items = append(slices.Items, out)
	}
	var b bytes.Buffer
	b.WriteString(keepMagic)
	for _, list := range []interface{ Marshal() ([]byte, error) }{&services, &slices} {
		part, err := list.Marshal()
		if err != nil {
			return nil, err
		}
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		b.Write(part)
	}
	return binary.BigEndian.AppendUint32(b.Bytes(), crc32.ChecksumIEEE(b.Bytes())), nil
}

// restore is a zone that answers from what save wrote, for ever.
func restore(domain string, data []byte) (*Zone, error) {
	rest, ok := bytes.CutPrefix(data, []byte(keepMagic))
	if !ok || len(rest) < 4 || crc32.ChecksumIEEE(data[:len(data)-4]) != binary.BigEndian.Uint32(data[len(data)-4:]) {
		return nil, errors.New("the file is damaged, or of another version")
	}
	rest = rest[:len(rest)-4]
	var services corev1.ServiceList
	var slices discoveryv1.EndpointSliceList
	for _, list := range []interface{ Unmarshal([]byte) error }{&services, &slices} {
		if len(rest) < 4 || uint32(len(rest)-4) < binary.BigEndian.Uint32(rest) {
			return nil, errors.New("the file is damaged")
		}
		n := binary.BigEndian.Uint32(rest)
		if err := list.Unmarshal(rest[4 : 4+n]); err != nil {
			return nil, err
		}
		rest = rest[4+n:]
	}
	z := &Zone{domain: domain, namespaces: map[string]int{}}
	z.byAddress = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{indexByAddress: serviceAddresses, cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	z.services = corelisters.NewServiceLister(z.byAddress)
	z.slices = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{indexByService: sliceService, indexByAddress: sliceAddresses})
	for i := range services.Items {
		if err := z.byAddress.Add(&services.Items[i]); err != nil {
			return nil, err
		}
		z.count(&services.Items[i], 1)
	}
	for i := range slices.Items {
		if err := z.slices.Add(&slices.Items[i]); err != nil {
			return nil, err
		}
	}
	return z, nil
}
