package network

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Annotations that limit the rate of a pod's traffic.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// The rates that make sense, in bits a second, as everywhere in Kubernetes.
const (
	minRate = 1_000
	maxRate = 1_000_000_000_000_000
)

// Bandwidth limits what a pod receives and sends, in bits a second; 0 is no limit.
type Bandwidth struct {
	Ingress, Egress uint64
}

// BandwidthOf reads the limits that a pod's annotations ask for.
func BandwidthOf(annotations map[string]string) (Bandwidth, error) {
	var b Bandwidth
	for _, a := range []struct {
		name string
		into *uint64
	}{{ingressAnnotation, &b.Ingress}, {egressAnnotation, &b.Egress}} {
		text, ok := annotations[a.name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return Bandwidth{}, fmt.Errorf("annotation %s: %q: %w", a.name, text, err)
		}
		switch {
		case q.Value() < minRate:
			return Bandwidth{}, fmt.Errorf("annotation %s: %q: resource is unreasonably small (< 1kbit)", a.name, text)
		case q.Value() > maxRate:
			return Bandwidth{}, fmt.Errorf("annotation %s: %q: resource is unreasonably large (> 1Pbit)", a.name, text)
		}
		*a.into = uint64(q.Value())
	}
	return b, nil
}
