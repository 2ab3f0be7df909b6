package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

const (
	maxUtilization = 100
	maxShapeScore  = 10 // upstream scales it to the 100 of other scores
	maxWeight      = 100
)

// argument is a plugin that has arguments: where they are, their defaults and what must hold.
type argument struct {
	plugin   string
	into     any
	meta     *metav1.TypeMeta
	complete func()
	validate func(*field.Path) field.ErrorList
}

func (a *Arguments) all() []argument {
	return []argument{
		{"DefaultPreemption", &a.DefaultPreemption, &a.DefaultPreemption.TypeMeta, a.completePreemption, a.validatePreemption},
		{"InterPodAffinity", &a.InterPodAffinity, &a.InterPodAffinity.TypeMeta, a.completeInterPod, a.validateInterPod},
		{"NodeAffinity", &a.NodeAffinity, &a.NodeAffinity.TypeMeta, func() {}, a.validateNodeAffinity},
		{"NodeResourcesFit", &a.NodeResourcesFit, &a.NodeResourcesFit.TypeMeta, a.completeFit, a.validateFit},
		{"NodeResourcesBalancedAllocation", &a.BalancedAllocation, &a.BalancedAllocation.TypeMeta, a.completeBalanced, a.validateBalanced},
		{"PodTopologySpread", &a.PodTopologySpread, &a.PodTopologySpread.TypeMeta, a.completeSpread, a.validateSpread},
		{"VolumeBinding", &a.VolumeBinding, &a.VolumeBinding.TypeMeta, a.completeVolumes, a.validateVolumes},
		{"DynamicResources", &a.DynamicResources, &a.DynamicResources.TypeMeta, a.completeDynamic, a.validateDynamic},
	}
}

// arguments reads pluginConfig.
func arguments(path *field.Path, in []schedulerv1.PluginConfig, doc *document, out *Arguments) field.ErrorList {
	var errs field.ErrorList
	all := out.all()
	given := map[string]*field.Path{}
	for i := range in {
		path, name := path.Index(i), in[i].Name
		if name == "" {
			errs = append(errs, field.Required(path.Child("name"), ""))
			continue
		}
		if given[name] != nil {
			errs = append(errs, field.Duplicate(path, name))
			continue
		}
		k := slices.IndexFunc(all, func(a argument) bool { return a.plugin == name })
		if _, exists := registered(name); !exists {
			errs = append(errs, unknownPlugin(path.Child("name"), name))
			continue
		}
		given[name] = path.Child("args")
		node := doc.nodes[path.Child("args").String()]
		if node == nil {
			continue
		}
		if k < 0 {
			errs = append(errs, field.Forbidden(path.Child("args"), "the plugin has no arguments"))
			continue
		}
		a := all[k]
		doc.decode(path.Child("args").String(), node, a.into)
		if v := a.meta.APIVersion; v != "" && v != apiVersion {
			errs = append(errs, field.NotSupported(path.Child("args", "apiVersion"), v, []string{apiVersion}))
		}
		if v := a.meta.Kind; v != "" && v != name+"Args" {
			errs = append(errs, field.NotSupported(path.Child("args", "kind"), v, []string{name + "Args"}))
		}
	}
	for _, a := range all {
		a.complete()
		*a.meta = metav1.TypeMeta{APIVersion: apiVersion, Kind: a.plugin + "Args"}
		if path := given[a.plugin]; path != nil {
			errs = append(errs, a.validate(path)...)
		}
	}
	return errs
}

func fill[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func (a *Arguments) completePreemption() {
	fill(&a.DefaultPreemption.MinCandidateNodesPercentage, 10)
	fill(&a.DefaultPreemption.MinCandidateNodesAbsolute, 100)
}

func (a *Arguments) validatePreemption(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	percentage, absolute := path.Child("minCandidateNodesPercentage"), path.Child("minCandidateNodesAbsolute")
	p, n := *a.DefaultPreemption.MinCandidateNodesPercentage, *a.DefaultPreemption.MinCandidateNodesAbsolute
	if p < 0 || p > 100 {
		errs = append(errs, field.Invalid(percentage, p, "not in valid range [0, 100]"))
	}
	if n < 0 {
		errs = append(errs, field.Invalid(absolute, n, "not in valid range [0, inf)"))
	}
	if p == 0 && n == 0 {
		errs = append(errs, field.Invalid(percentage, p, "cannot be zero at the same time as minCandidateNodesAbsolute"),
			field.Invalid(absolute, n, "cannot be zero at the same time as minCandidateNodesPercentage"))
	}
	return errs
}

func (a *Arguments) completeInterPod() { fill(&a.InterPodAffinity.HardPodAffinityWeight, 1) }

func (a *Arguments) validateInterPod(path *field.Path) field.ErrorList {
	if w := *a.InterPodAffinity.HardPodAffinityWeight; w < 0 || w > 100 {
		return field.ErrorList{field.Invalid(path.Child("hardPodAffinityWeight"), w, "not in valid range [0, 100]")}
	}
	return nil
}

func (a *Arguments) validateNodeAffinity(path *field.Path) field.ErrorList {
	added := a.NodeAffinity.AddedAffinity
	if added == nil {
		return nil
	}
	var errs field.ErrorList
	path = path.Child("addedAffinity")
	add := func(path *field.Path, err error) {
		if err != nil {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, err.Error()))
		}
	}
	if required := added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		_, err := nodeaffinity.NewNodeSelector(required)
		add(path.Child("requiredDuringSchedulingIgnoredDuringExecution"), err)
	}
	if preferred := added.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
		_, err := nodeaffinity.NewPreferredSchedulingTerms(preferred)
		add(path.Child("preferredDuringSchedulingIgnoredDuringExecution"), err)
	}
	return errs
}

func defaultResources() []schedulerv1.ResourceSpec {
	return []schedulerv1.ResourceSpec{{Name: string(v1.ResourceCPU), Weight: 1}, {Name: string(v1.ResourceMemory), Weight: 1}}
}

// fillResources makes a list complete: CPU and memory if it is empty, and the weight 1 where there is none.
func fillResources(list *[]schedulerv1.ResourceSpec) {
	if len(*list) == 0 {
		*list = defaultResources()
	}
	for i := range *list {
		if r := &(*list)[i]; r.Weight == 0 {
			r.Weight = 1
		}
	}
}

func (a *Arguments) completeFit() {
	if a.NodeResourcesFit.ScoringStrategy == nil {
		a.NodeResourcesFit.ScoringStrategy = &schedulerv1.ScoringStrategy{Type: schedulerv1.LeastAllocated}
	}
	fillResources(&a.NodeResourcesFit.ScoringStrategy.Resources)
}

func (a *Arguments) validateFit(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range a.NodeResourcesFit.IgnoredResources {
		errs = append(errs, metav1validation.ValidateLabelName(name, path.Child("ignoredResources").Index(i))...)
	}
	for i, group := range a.NodeResourcesFit.IgnoredResourceGroups {
		path := path.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(path, group, "resource group name can't contain '/'"))
		}
		errs = append(errs, metav1validation.ValidateLabelName(group, path)...)
	}
	path = path.Child("scoringStrategy")
	s := a.NodeResourcesFit.ScoringStrategy
	known := []schedulerv1.ScoringStrategyType{schedulerv1.LeastAllocated, schedulerv1.MostAllocated, schedulerv1.RequestedToCapacityRatio}
	if !slices.Contains(known, s.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, known))
	}
	for i, r := range s.Resources {
		if r.Weight <= 0 || r.Weight > maxWeight {
			errs = append(errs, field.Invalid(path.Child("resources").Index(i).Child("weight"), r.Weight,
				fmt.Sprintf("resource weight of %v not in valid range (0, 100]", r.Name)))
		}
	}
	ratio := path.Child("requestedToCapacityRatio")
	switch isRatio := s.Type == schedulerv1.RequestedToCapacityRatio; {
	case isRatio && s.RequestedToCapacityRatio == nil:
		errs = append(errs, field.Required(ratio, "must be specified when type is RequestedToCapacityRatio"))
	case isRatio:
		errs = append(errs, validateShape(ratio.Child("shape"), s.RequestedToCapacityRatio.Shape)...)
	case s.RequestedToCapacityRatio != nil:
		errs = append(errs, field.Forbidden(ratio, "must be nil when type is not RequestedToCapacityRatio"))
	}
	return errs
}

func validateShape(path *field.Path, shape []schedulerv1.UtilizationShapePoint) field.ErrorList {
	if len(shape) == 0 {
		return field.ErrorList{field.Required(path, "at least one point must be specified")}
	}
	var errs field.ErrorList
	sorted := true
	for i, p := range shape {
		path := path.Index(i)
		if sorted && i > 0 && shape[i-1].Utilization >= p.Utilization {
			sorted = false
			errs = append(errs, field.Invalid(path.Child("utilization"), p.Utilization, "values must be sorted in increasing order"))
		}
		if p.Utilization < 0 || p.Utilization > maxUtilization {
			errs = append(errs, field.Invalid(path.Child("utilization"), p.Utilization, "not in valid range [0, 100]"))
		}
		if p.Score < 0 || p.Score > maxShapeScore {
			errs = append(errs, field.Invalid(path.Child("score"), p.Score, "not in valid range [0, 10]"))
		}
	}
	return errs
}

func (a *Arguments) completeBalanced() { fillResources(&a.BalancedAllocation.Resources) }

func (a *Arguments) validateBalanced(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, r := range a.BalancedAllocation.Resources {
		path := path.Child("resources").Index(i)
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(path.Child("name"), r.Name))
		}
		seen[r.Name] = true
		if r.Weight != 1 {
			errs = append(errs, field.Invalid(path.Child("weight"), r.Weight, "must be 1"))
		}
	}
	return errs
}

func (a *Arguments) completeSpread() {
	if a.PodTopologySpread.DefaultingType == "" {
		a.PodTopologySpread.DefaultingType = schedulerv1.SystemDefaulting
	}
}

func (a *Arguments) validateSpread(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	in := &a.PodTopologySpread
	known := []schedulerv1.PodTopologySpreadConstraintsDefaulting{schedulerv1.SystemDefaulting, schedulerv1.ListDefaulting}
	switch how := path.Child("defaultingType"); {
	case !slices.Contains(known, in.DefaultingType):
		errs = append(errs, field.NotSupported(how, in.DefaultingType, known))
	case in.DefaultingType == schedulerv1.SystemDefaulting && len(in.DefaultConstraints) > 0:
		errs = append(errs, field.Invalid(how, in.DefaultingType, `when .defaultConstraints are not empty; say "List"`))
	}
	seen := map[string]bool{}
	for i, c := range in.DefaultConstraints {
		path := path.Child("defaultConstraints").Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(path.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, path.Child("topologyKey"))...)
		}
		actions := []v1.UnsatisfiableConstraintAction{v1.DoNotSchedule, v1.ScheduleAnyway}
		if c.WhenUnsatisfiable == "" {
			errs = append(errs, field.Required(path.Child("whenUnsatisfiable"), "can not be empty"))
		} else if !slices.Contains(actions, c.WhenUnsatisfiable) {
			errs = append(errs, field.NotSupported(path.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, actions))
		}
		if c.LabelSelector != nil {
			errs = append(errs, field.Forbidden(path.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
		}
		key := fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen[key] {
			errs = append(errs, field.Duplicate(path, key))
		}
		seen[key] = true
	}
	return errs
}

func (a *Arguments) completeVolumes() {
	fill(&a.VolumeBinding.BindTimeoutSeconds, 600)
	if len(a.VolumeBinding.Shape) == 0 { // the more is left, the better
		a.VolumeBinding.Shape = []schedulerv1.UtilizationShapePoint{{Utilization: 0, Score: maxShapeScore}, {Utilization: maxUtilization, Score: 0}}
	}
}

func (a *Arguments) validateVolumes(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := *a.VolumeBinding.BindTimeoutSeconds; n < 0 {
		errs = append(errs, field.Invalid(path.Child("bindTimeoutSeconds"), n, "invalid BindTimeoutSeconds, should not be a negative value"))
	}
	return append(errs, validateShape(path.Child("shape"), a.VolumeBinding.Shape)...)
}

func (a *Arguments) completeDynamic() {
	fill(&a.DynamicResources.FilterTimeout, metav1.Duration{Duration: schedulerv1.DynamicResourcesFilterTimeoutDefault})
	fill(&a.DynamicResources.BindingTimeout, metav1.Duration{Duration: schedulerv1.DynamicResourcesBindingTimeoutDefault})
}

func (a *Arguments) validateDynamic(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := a.DynamicResources.FilterTimeout; d.Duration < 0 {
		errs = append(errs, field.Invalid(path.Child("filterTimeout"), d.Duration.String(), "must be zero or positive"))
	}
	if d := a.DynamicResources.BindingTimeout; d.Duration < time.Second {
		errs = append(errs, field.Invalid(path.Child("bindingTimeout"), d.Duration.String(), "must be at least 1 second"))
	}
	return errs
}
