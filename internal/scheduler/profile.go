package scheduler

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/celox/celox/internal/scheduler/config"
)

// profile is how pods of one schedulerName are decided, ready for use.
type profile struct {
	name  string
	index int
	// filters and scores are those whose results are kept with classes. The order of the filters is that in which they are asked; the first refusal counts.
	filters []filter
	scores  []weighted
	// asked are the filters that look at more than the pod's class and the node, by name.
	asked map[string]bool
	// spreadWeight, interPodWeight, volumeWeight and deviceWeight are 0 if those plugins don't score.
	spreadWeight, interPodWeight, volumeWeight, deviceWeight int64
	// volumeShape is how good it is that so much of the storage of a node is asked for.
	volumeShape []schedulerv1.UtilizationShapePoint
	// hardWeight is what a required affinity of a pod on a node counts for in the scores of the pods that it wants near it.
	hardWeight int64
	// onlyOwnWishes says that what pods on nodes want near them, required or preferred, counts only for pods that have preferences themselves.
	onlyOwnWishes bool
	// spreadBy are the constraints of pods that have none of their own. byDefault says that they are the system's, which nodes without the labels don't
	// exempt themselves from.
	spreadBy  []v1.TopologySpreadConstraint
	byDefault bool
	// spreadsHard says that some of them must be kept.
	spreadsHard bool
	preempts    bool
	// minTried and minTriedPercent are on how many nodes preemption is tried at least.
	minTried, minTriedPercent int
	// percentage is at what part of all nodes the search for nodes that fit may end; 0 lets the number of nodes decide.
	percentage  int
	bindTimeout time.Duration
	// deviceTimeout is how long drivers may take to make devices ready.
	deviceTimeout time.Duration
	added         *v1.NodeAffinity
}

// weighted is a score with its weight.
type weighted struct {
	score
	weight int64
}

// System's default constraints: the more domains a label has, the less skew is noticed.
const (
	systemHostnameSkew = 3
	systemZoneSkew     = 5
)

func systemConstraints() []v1.TopologySpreadConstraint {
	return []v1.TopologySpreadConstraint{
		{TopologyKey: v1.LabelHostname, MaxSkew: systemHostnameSkew, WhenUnsatisfiable: v1.ScheduleAnyway},
		{TopologyKey: v1.LabelTopologyZone, MaxSkew: systemZoneSkew, WhenUnsatisfiable: v1.ScheduleAnyway},
	}
}

func (s *Snapshot) newProfile(index int, c *config.Profile) *profile {
	a := &c.Arguments
	p := &profile{
		name: c.SchedulerName, index: index, asked: map[string]bool{}, percentage: int(c.PercentageOfNodesToScore),
		hardWeight: int64(value(a.InterPodAffinity.HardPodAffinityWeight)), onlyOwnWishes: a.InterPodAffinity.IgnorePreferredTermsOfExistingPods,
		preempts:    config.Has(c.Plugins.PostFilter, NameDefaultPreemption),
		minTried:    int(value(a.DefaultPreemption.MinCandidateNodesAbsolute)),
		bindTimeout: time.Duration(value(a.VolumeBinding.BindTimeoutSeconds)) * time.Second,
		volumeShape: a.VolumeBinding.Shape,
		added:       a.NodeAffinity.AddedAffinity,

		deviceTimeout: value(a.DynamicResources.BindingTimeout).Duration,
	}
	p.minTriedPercent = int(value(a.DefaultPreemption.MinCandidateNodesPercentage))
	if config.Has(c.Plugins.Filter, NamePodTopologySpread) || config.Has(c.Plugins.Score, NamePodTopologySpread) {
		p.spreadBy = a.PodTopologySpread.DefaultConstraints
		if p.byDefault = a.PodTopologySpread.DefaultingType != schedulerv1.ListDefaulting; p.byDefault {
			p.spreadBy = systemConstraints()
		}
		p.spreadsHard = slices.ContainsFunc(p.spreadBy, func(t v1.TopologySpreadConstraint) bool { return t.WhenUnsatisfiable == v1.DoNotSchedule })
	}
	fit := s.newFit(&a.NodeResourcesFit)
	affinity := s.newNodeAffinity(a.NodeAffinity.AddedAffinity)
	kept := map[string]any{
		NameNodeUnschedulable: nodeUnschedulable{}, NameNodeName: nodeName{}, NameTaintToleration: taintToleration{}, NameNodeAffinity: affinity,
		NameNodePorts: nodePorts{}, NameNodeResourcesFit: fit, NameBalancedAllocation: s.newBalanced(&a.BalancedAllocation), NameImageLocality: imageLocality{},
		NameDeclaredFeatures: declaredFeatures{},
	}
	for _, e := range c.Plugins.Filter {
		if f, ok := kept[e.Name].(filter); ok {
			p.filters = append(p.filters, f)
		} else {
			p.asked[e.Name] = true
		}
	}
	for _, e := range c.Plugins.Score {
		weight := cmp.Or(e.Weight, 1)
		switch sc, ok := kept[e.Name].(score); {
		case ok:
			p.scores = append(p.scores, weighted{sc, weight})
		case e.Name == NamePodTopologySpread:
			p.spreadWeight = weight
		case e.Name == NameInterPodAffinity:
			p.interPodWeight = weight
		case e.Name == NameVolumeBinding:
			p.volumeWeight = weight
		case e.Name == NameDynamicResources:
			p.deviceWeight = weight
		}
	}
	return p
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// most is the largest sum of weighted scores that aren't normalized.
func (p *profile) most() int64 {
	var sum int64
	for _, sc := range p.scores {
		if sc.Normalize() == asItIs {
			sum += sc.weight * maxNodeScore
		}
	}
	return sum
}

// Upstream's numbers for how many nodes that fit are enough.
const (
	minEnough        = 100
	minEnoughPercent = 5
	basePercent      = 50
	nodesPerPercent  = 125 // for so many nodes the percentage gets one less
)

// enough is how many nodes that fit make further search pointless, of n nodes.
func (p *profile) enough(n int) int {
	percent := p.percentage
	if percent == 0 {
		percent = max(basePercent-n/nodesPerPercent, minEnoughPercent)
	}
	if n < minEnough || percent >= 100 {
		return n
	}
	return max(n*percent/100, minEnough)
}

// profileOf returns the profile of a schedulerName, the first one if there is none with that name.
func (s *Snapshot) profileOf(schedulerName string) *profile {
	i := slices.IndexFunc(s.profiles, func(p *profile) bool { return p.name == schedulerName })
	return s.profiles[max(i, 0)]
}

// cares says whether there is a profile for a schedulerName.
func (s *Snapshot) cares(schedulerName string) bool {
	return slices.ContainsFunc(s.profiles, func(p *profile) bool { return p.name == schedulerName })
}
