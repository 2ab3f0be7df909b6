package resource

import (
	"github.com/google/cel-go/checker"
	resourcev1 "k8s.io/api/resource/v1"
)

// deviceSizes bounds the parts of a device for the estimate of what an expression costs.
type deviceSizes struct{}

// EstimateSize says how large the part of a device at a path can be.
func (deviceSizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	path := element.Path()
	if len(path) < 2 || path[0] != "device" {
		return nil
	}
	upTo := func(n uint64) *checker.SizeEstimate { return &checker.SizeEstimate{Min: 0, Max: n} }
	const most = uint64(resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)
	switch path[1] {
	case "driver":
		return upTo(resourcev1.DriverNameMaxLength)
	case "attributes", "capacity":
		switch last := path[len(path)-1]; {
		case len(path) <= 3 && last == "@keys": // a domain, or a name
			return upTo(resourcev1.DeviceMaxDomainLength)
		case len(path) <= 3:
			return upTo(most)
		case last == "@keys":
			return upTo(resourcev1.DeviceMaxIDLength)
		}
		return upTo(resourcev1.DeviceAttributeMaxValueLength)
	}
	return nil
}

// EstimateCallCost leaves the costs of calls to the libraries that bring them.
func (deviceSizes) EstimateCallCost(_, _ string, _ *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	return nil
}
