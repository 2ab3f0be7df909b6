package pressure

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Amount is how much of something has to be left: a quantity (bytes, inodes, processes) or a share of all there is. The zero value asks
// for nothing.
type Amount struct {
	Quantity int64
	Share    float64 // 0.1 is 10 %
}

// Of is the amount in units, of something that there is total of.
func (a Amount) Of(total int64) int64 {
	if a.Share > 0 {
		return int64(a.Share * float64(total))
	}
	return a.Quantity
}

// Thresholds are what has to be left; below, pods are evicted (hard eviction). The zero value takes upstream's defaults.
type Thresholds struct {
	Memory, NodeDisk, NodeInodes, ImageDisk, ImageInodes, PIDs Amount
	// Off: nothing is watched and nothing evicted.
	Off bool
}

// Defaults are the kubelet's.
func Defaults() Thresholds {
	return Thresholds{
		Memory: Amount{Quantity: 100 << 20}, NodeDisk: Amount{Share: 0.10}, NodeInodes: Amount{Share: 0.05},
		ImageDisk: Amount{Share: 0.15}, ImageInodes: Amount{Share: 0.05},
	}
}

// Complete turns the zero value into the defaults.
func (t Thresholds) Complete() Thresholds {
	if t == (Thresholds{}) {
		return Defaults()
	}
	return t
}

// Parse reads the kubelet's form, "memory.available<100Mi,nodefs.available<10%". What isn't named isn't watched; "" is the zero value.
func Parse(text string) (Thresholds, error) {
	var t Thresholds
	if strings.TrimSpace(text) == "" {
		return t, nil
	}
	fields := map[string]*Amount{
		"memory.available": &t.Memory, "nodefs.available": &t.NodeDisk, "nodefs.inodesFree": &t.NodeInodes,
		"imagefs.available": &t.ImageDisk, "imagefs.inodesFree": &t.ImageInodes, "pid.available": &t.PIDs,
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "<")
		if !ok {
			return Thresholds{}, fmt.Errorf("eviction threshold %q: it must be like memory.available<100Mi", part)
		}
		field := fields[name]
		if field == nil {
			return Thresholds{}, fmt.Errorf("eviction threshold %q: there is no signal %q", part, name)
		}
		if *field != (Amount{}) {
			return Thresholds{}, fmt.Errorf("eviction threshold %q: %s is named twice", part, name)
		}
		a, err := parseAmount(value)
		if err != nil {
			return Thresholds{}, fmt.Errorf("eviction threshold %q: %w", part, err)
		}
		*field = a
	}
	if t == (Thresholds{}) {
		t.Off = true // every threshold is 0
	}
	return t, nil
}

func parseAmount(text string) (Amount, error) {
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || p < 0 || p > 100 || p != p {
			return Amount{}, fmt.Errorf("%q is no percentage", text)
		}
		return Amount{Share: p / 100}, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return Amount{}, fmt.Errorf("%q: %w", text, err)
	}
	if q.Sign() < 0 {
		return Amount{}, fmt.Errorf("%q is negative", text)
	}
	return Amount{Quantity: q.Value()}, nil
}
