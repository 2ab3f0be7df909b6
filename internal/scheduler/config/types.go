package config

import (
	"time"

	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// Scheduler is a complete and valid configuration. It isn't changed any more.
type Scheduler struct {
	// InitialBackoff and MaxBackoff are how long a pod that failed waits at first, and at most.
	InitialBackoff, MaxBackoff time.Duration
	// Profiles has at least one element; the names are distinct.
	Profiles []Profile
	// Extenders are asked for every profile, in this order; at most one of them binds.
	Extenders []schedulerv1.Extender
	// Parallelism is how many goroutines upstream would filter with.
	Parallelism int
	// LeaderElection and ClientConnection are how the scheduler would find its place beside others, and reach the API, if it were a process of its own.
	LeaderElection   LeaderElection
	ClientConnection ClientConnection
	// EnableProfiling and EnableContentionProfiling are about the debugging endpoints.
	EnableProfiling, EnableContentionProfiling bool
	// DelayCacheUntilActive says that a standby has no caches.
	DelayCacheUntilActive bool
}

// LeaderElection is how one of several schedulers is elected.
type LeaderElection struct {
	LeaderElect                               bool
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	ResourceLock                              string
	ResourceNamespace, ResourceName           string
}

// ClientConnection is how the API is reached.
type ClientConnection struct {
	Kubeconfig         string
	AcceptContentTypes string
	ContentType        string
	QPS                float32
	Burst              int32
}

// Profile is how pods of one schedulerName are scheduled.
type Profile struct {
	SchedulerName string
	// PercentageOfNodesToScore is at what part of all nodes the search for nodes that fit may end; 0 leaves it to the scheduler.
	PercentageOfNodesToScore int32
	Plugins                  Plugins
	Arguments                Arguments
}

// Plugin is one that is enabled at an extension point.
type Plugin struct {
	Name string
	// Weight multiplies the scores; it is at least 1 in Plugins.Score and 0 elsewhere.
	Weight int64
}

// Plugins are those that are enabled, by extension point, in the order in which they are asked.
type Plugins struct {
	PreEnqueue []Plugin
	QueueSort  []Plugin
	PreFilter  []Plugin
	Filter     []Plugin
	PostFilter []Plugin
	PreScore   []Plugin
	Score      []Plugin
	Reserve    []Plugin
	Permit     []Plugin
	PreBind    []Plugin
	Bind       []Plugin
	PostBind   []Plugin
}

// Arguments are those of the plugins that have some; all of them are set, whether the plugin is enabled or not.
type Arguments struct {
	DefaultPreemption  schedulerv1.DefaultPreemptionArgs
	InterPodAffinity   schedulerv1.InterPodAffinityArgs
	NodeAffinity       schedulerv1.NodeAffinityArgs
	NodeResourcesFit   schedulerv1.NodeResourcesFitArgs
	BalancedAllocation schedulerv1.NodeResourcesBalancedAllocationArgs
	PodTopologySpread  schedulerv1.PodTopologySpreadArgs
	VolumeBinding      schedulerv1.VolumeBindingArgs
	DynamicResources   schedulerv1.DynamicResourcesArgs
}

// Has says whether a plugin is in a list.
func Has(list []Plugin, name string) bool {
	for _, p := range list {
		if p.Name == name {
			return true
		}
	}
	return false
}

// Profile returns the profile that pods of a schedulerName have, or nil.
func (s *Scheduler) Profile(schedulerName string) *Profile {
	for i := range s.Profiles {
		if s.Profiles[i].SchedulerName == schedulerName {
			return &s.Profiles[i]
		}
	}
	return nil
}
