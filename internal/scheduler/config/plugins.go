package config

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// point is an extension point; the numbers are bits of a set.
type point uint16

const (
	preEnqueue point = 1 << iota
	queueSort
	preFilter
	filter
	postFilter
	preScore
	score
	reserve
	permit
	preBind
	bind
	postBind
)

// pointInfo says how an extension point is written and where its plugins are.
type pointInfo struct {
	point point
	key   string
	set   func(*schedulerv1.Plugins) *schedulerv1.PluginSet
	list  func(*Plugins) *[]Plugin
}

func points() []pointInfo {
	type in = schedulerv1.Plugins
	type set = schedulerv1.PluginSet
	return []pointInfo{
		{preEnqueue, "preEnqueue", func(p *in) *set { return &p.PreEnqueue }, func(p *Plugins) *[]Plugin { return &p.PreEnqueue }},
		{queueSort, "queueSort", func(p *in) *set { return &p.QueueSort }, func(p *Plugins) *[]Plugin { return &p.QueueSort }},
		{preFilter, "preFilter", func(p *in) *set { return &p.PreFilter }, func(p *Plugins) *[]Plugin { return &p.PreFilter }},
		{filter, "filter", func(p *in) *set { return &p.Filter }, func(p *Plugins) *[]Plugin { return &p.Filter }},
		{postFilter, "postFilter", func(p *in) *set { return &p.PostFilter }, func(p *Plugins) *[]Plugin { return &p.PostFilter }},
		{preScore, "preScore", func(p *in) *set { return &p.PreScore }, func(p *Plugins) *[]Plugin { return &p.PreScore }},
		{score, "score", func(p *in) *set { return &p.Score }, func(p *Plugins) *[]Plugin { return &p.Score }},
		{reserve, "reserve", func(p *in) *set { return &p.Reserve }, func(p *Plugins) *[]Plugin { return &p.Reserve }},
		{permit, "permit", func(p *in) *set { return &p.Permit }, func(p *Plugins) *[]Plugin { return &p.Permit }},
		{preBind, "preBind", func(p *in) *set { return &p.PreBind }, func(p *Plugins) *[]Plugin { return &p.PreBind }},
		{bind, "bind", func(p *in) *set { return &p.Bind }, func(p *Plugins) *[]Plugin { return &p.Bind }},
		{postBind, "postBind", func(p *in) *set { return &p.PostBind }, func(p *Plugins) *[]Plugin { return &p.PostBind }},
	}
}

// registration is a plugin that exists.
type registration struct {
	name   string
	points point
	// weight is that of the scores by default; 0 for plugins that don't score.
	weight int64
}

// registry lists all plugins in the order in which they are enabled by default, which is upstream's.
func registry() []registration {
	return []registration{
		{"SchedulingGates", preEnqueue, 0},
		{"PrioritySort", queueSort, 0},
		{"NodeUnschedulable", filter, 0},
		{"NodeName", filter, 0},
		{"TaintToleration", filter | preScore | score, 3},
		{"NodeAffinity", preFilter | filter | preScore | score, 2},
		{"NodePorts", preFilter | filter, 0},
		{"NodeResourcesFit", preFilter | filter | preScore | score, 1},
		{"VolumeRestrictions", preFilter | filter, 0},
		{"NodeVolumeLimits", preFilter | filter, 0},
		{"VolumeBinding", preFilter | filter | reserve | preBind | preScore | score, 0},
		{"VolumeZone", preFilter | filter, 0},
		{"PodTopologySpread", preFilter | filter | preScore | score, 2},
		{"InterPodAffinity", preFilter | filter | preScore | score, 2},
		{"DynamicResources", preEnqueue | preFilter | filter | postFilter | score | reserve | preBind, 2},
		{"DefaultPreemption", postFilter, 0},
		{"NodeResourcesBalancedAllocation", preScore | score, 1},
		{"ImageLocality", score, 1},
		{"DefaultBinder", bind, 0},
		{"NodeDeclaredFeatures", preFilter | filter, 0},
	}
}

func registered(name string) (registration, bool) {
	for _, r := range registry() {
		if r.name == name {
			return r, true
		}
	}
	return registration{}, false
}

// everything disables all default plugins of an extension point.
const everything = "*"

// resolve works out which plugins run where. A setting for one extension point is stronger than multiPoint, multiPoint is stronger than the defaults,
// and enabled is stronger than disabled.
func resolve(path *field.Path, in *schedulerv1.Plugins) (Plugins, field.ErrorList) {
	var out Plugins
	if in == nil {
		in = &schedulerv1.Plugins{}
	}
	errs := checkSet(path.Child("multiPoint"), &in.MultiPoint, 0)
	for _, s := range []struct {
		key string
		set *schedulerv1.PluginSet
	}{{"placementGenerate", &in.PlacementGenerate}, {"placementScore", &in.PlacementScore}, {"podGroupPostFilter", &in.PodGroupPostFilter}} {
		if len(s.set.Enabled) > 0 {
			errs = append(errs, field.Forbidden(path.Child(s.key, "enabled"), "pods are not scheduled in groups here"))
		}
	}
	everywhere := mergeDefaults(in.MultiPoint)
	for _, info := range points() {
		own := info.set(in)
		errs = append(errs, checkSet(path.Child(info.key), own, info.point)...)
		*info.list(&out) = expand(info.point, everywhere, own)
	}
	if len(errs) > 0 {
		return out, errs
	}
	if n := len(out.QueueSort); n != 1 {
		errs = append(errs, field.Invalid(path.Child("queueSort"), n, "exactly one queue sort plugin must be enabled"))
	}
	if len(out.Bind) == 0 {
		errs = append(errs, field.Required(path.Child("bind", "enabled"), "at least one bind plugin is needed"))
	}
	return out, errs
}

// mergeDefaults returns the plugins of multiPoint: the default ones, unless disabled, some with a new weight, and then the others.
func mergeDefaults(custom schedulerv1.PluginSet) []schedulerv1.Plugin {
	named := func(list []schedulerv1.Plugin, name string) int {
		return slices.IndexFunc(list, func(p schedulerv1.Plugin) bool { return p.Name == name })
	}
	var out []schedulerv1.Plugin
	if named(custom.Disabled, everything) < 0 {
		for _, r := range registry() {
			switch i := named(custom.Enabled, r.name); {
			case named(custom.Disabled, r.name) >= 0:
			case i >= 0:
				out = append(out, custom.Enabled[i]) // in its old place
			default:
				w := int32(r.weight)
				out = append(out, schedulerv1.Plugin{Name: r.name, Weight: &w})
			}
		}
	}
	for _, p := range custom.Enabled {
		if named(out, p.Name) < 0 {
			out = append(out, p)
		}
	}
	return out
}

// expand lists the plugins of one extension point: first those that are named for it and are in multiPoint too, then the others of multiPoint, then the
// others that are named.
func expand(at point, everywhere []schedulerv1.Plugin, own *schedulerv1.PluginSet) []Plugin {
	var first, second, third []Plugin
	disabled := func(name string) bool {
		return slices.ContainsFunc(own.Disabled, func(p schedulerv1.Plugin) bool { return p.Name == name || p.Name == everything })
	}
	works := func(name string) bool {
		r, ok := registered(name)
		return ok && r.points&at != 0
	}
	named := func(list []schedulerv1.Plugin, name string) bool {
		return slices.ContainsFunc(list, func(p schedulerv1.Plugin) bool { return p.Name == name })
	}
	for _, p := range own.Enabled {
		// A plugin that is disabled here and enabled here is enabled, as one that comes last.
		if named(everywhere, p.Name) && !disabled(p.Name) {
			first = append(first, enabled(at, p))
		} else {
			third = append(third, enabled(at, p))
		}
	}
	for _, p := range everywhere {
		if works(p.Name) && !disabled(p.Name) && !named(own.Enabled, p.Name) {
			second = append(second, enabled(at, p))
		}
	}
	return slices.Concat(first, second, third)
}

func enabled(at point, p schedulerv1.Plugin) Plugin {
	out := Plugin{Name: p.Name}
	if at == score {
		if out.Weight = 1; p.Weight != nil && *p.Weight != 0 {
			out.Weight = int64(*p.Weight)
		}
	}
	return out
}

// checkSet looks for names that don't exist, stand twice, or don't work at the extension point (0 is multiPoint).
func checkSet(path *field.Path, set *schedulerv1.PluginSet, at point) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, p := range set.Enabled {
		path := path.Child("enabled").Index(i)
		r, ok := registered(p.Name)
		switch {
		case p.Name == "":
			errs = append(errs, field.Required(path.Child("name"), ""))
		case p.Name == everything:
			errs = append(errs, field.Invalid(path.Child("name"), p.Name, `stands for all plugins only under "disabled"`))
		case !ok:
			errs = append(errs, unknownPlugin(path.Child("name"), p.Name))
		case at != 0 && r.points&at == 0:
			errs = append(errs, field.Invalid(path.Child("name"), p.Name, "the plugin doesn't work at this extension point"))
		case seen[p.Name]:
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		case p.Weight != nil && *p.Weight < 0:
			errs = append(errs, field.Invalid(path.Child("weight"), *p.Weight, "must not be negative"))
		}
		seen[p.Name] = true
	}
	for i, p := range set.Disabled {
		if _, ok := registered(p.Name); !ok && p.Name != everything {
			errs = append(errs, unknownPlugin(path.Child("disabled").Index(i).Child("name"), p.Name))
		}
	}
	return errs
}

func unknownPlugin(path *field.Path, name string) *field.Error {
	var names []string
	for _, r := range registry() {
		if strings.EqualFold(r.name, name) {
			return field.Invalid(path, name, fmt.Sprintf("there is no such plugin: did you mean %q?", r.name))
		}
		names = append(names, r.name)
	}
	return field.Invalid(path, name, "there is no such plugin; there are "+strings.Join(names, ", "))
}
