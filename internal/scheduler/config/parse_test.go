package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func names(list []Plugin) string {
	var out []string
	for _, p := range list {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestDefaults(t *testing.T) {
	c, errs := complete(&schedulerv1.KubeSchedulerConfiguration{}, nil)
	if len(errs) > 0 {
		t.Fatalf("the defaults are not valid: %v", errs)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Error("Default is not what no configuration means")
	}
	parsed, err := Parse([]byte(head))
	if err != nil || !reflect.DeepEqual(parsed, c) {
		t.Errorf("an empty file is not the default: %v\n%+v\n%+v", err, parsed, c)
	}
	if c.InitialBackoff != time.Second || c.MaxBackoff != 10*time.Second || c.Parallelism != 16 || c.ClientConnection.QPS != 50 || c.ClientConnection.Burst != 100 ||
		c.LeaderElection != (LeaderElection{true, 15 * time.Second, 10 * time.Second, 2 * time.Second, "leases", "kube-system", "kube-scheduler"}) {
		t.Errorf("got %+v", c)
	}
	p := c.Profile("default-scheduler")
	if p == nil || len(c.Profiles) != 1 {
		t.Fatalf("profiles: %+v", c.Profiles)
	}
	for _, tt := range []struct {
		list []Plugin
		want string
	}{
		{p.Plugins.PreEnqueue, "SchedulingGates DynamicResources"},
		{p.Plugins.QueueSort, "PrioritySort"},
		{p.Plugins.Filter, "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions NodeVolumeLimits VolumeBinding VolumeZone PodTopologySpread InterPodAffinity DynamicResources NodeDeclaredFeatures"},
		{p.Plugins.PostFilter, "DynamicResources DefaultPreemption"},
		{p.Plugins.Score, "TaintToleration NodeAffinity NodeResourcesFit VolumeBinding PodTopologySpread InterPodAffinity DynamicResources NodeResourcesBalancedAllocation ImageLocality"},
		{p.Plugins.Reserve, "VolumeBinding DynamicResources"},
		{p.Plugins.Permit, ""},
		{p.Plugins.Bind, "DefaultBinder"},
	} {
		if got := names(tt.list); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	weights := map[string]int64{}
	for _, s := range p.Plugins.Score {
		weights[s.Name] = s.Weight
	}
	if want := map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "NodeResourcesFit": 1, "VolumeBinding": 1, "PodTopologySpread": 2, "InterPodAffinity": 2, "DynamicResources": 2,
		"NodeResourcesBalancedAllocation": 1, "ImageLocality": 1}; !reflect.DeepEqual(weights, want) {
		t.Errorf("weights %v", weights)
	}
	a := &p.Arguments
	if *a.DefaultPreemption.MinCandidateNodesPercentage != 10 || *a.DefaultPreemption.MinCandidateNodesAbsolute != 100 || *a.InterPodAffinity.HardPodAffinityWeight != 1 ||
		a.NodeResourcesFit.ScoringStrategy.Type != schedulerv1.LeastAllocated || len(a.NodeResourcesFit.ScoringStrategy.Resources) != 2 || len(a.BalancedAllocation.Resources) != 2 ||
		a.PodTopologySpread.DefaultingType != schedulerv1.SystemDefaulting || *a.VolumeBinding.BindTimeoutSeconds != 600 ||
		a.DynamicResources.FilterTimeout.Duration != 10*time.Second || a.DynamicResources.BindingTimeout.Duration != 10*time.Minute {
		t.Errorf("arguments %+v", a)
	}
}

func TestPlugins(t *testing.T) {
	tests := []struct {
		name, in string
		list     func(*Plugins) []Plugin
		want     []Plugin
	}{
		{"a weight of its own", "score: {enabled: [{name: ImageLocality, weight: 7}]}", func(p *Plugins) []Plugin { return p.Score[:2] },
			[]Plugin{{"ImageLocality", 7}, {"TaintToleration", 3}}},
		{"nothing but one", "score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}", func(p *Plugins) []Plugin { return p.Score },
			[]Plugin{{"NodeResourcesFit", 5}}},
		{"nothing at all", "score: {disabled: [{name: '*'}]}", func(p *Plugins) []Plugin { return p.Score }, nil},
		{"one less", "postFilter: {disabled: [{name: DefaultPreemption}]}", func(p *Plugins) []Plugin { return p.PostFilter }, []Plugin{{"DynamicResources", 0}}},
		{"one less everywhere", "multiPoint: {disabled: [{name: ImageLocality}]}", func(p *Plugins) []Plugin { return p.Score[len(p.Score)-1:] }, []Plugin{{"NodeResourcesBalancedAllocation", 1}}},
		{"disabled and enabled is enabled", "multiPoint: {disabled: [{name: ImageLocality}], enabled: [{name: ImageLocality, weight: 2}]}",
			func(p *Plugins) []Plugin { return p.Score[len(p.Score)-1:] }, []Plugin{{"ImageLocality", 2}}},
		{"only what is named", "multiPoint: {disabled: [{name: '*'}], enabled: [{name: DefaultBinder}, {name: PrioritySort}, {name: NodeAffinity}]}",
			func(p *Plugins) []Plugin { return slices.Concat(p.Filter, p.Score, p.Bind) }, []Plugin{{"NodeAffinity", 0}, {"NodeAffinity", 1}, {"DefaultBinder", 0}}},
		{"a new weight keeps its place and loses the default weight", "multiPoint: {enabled: [{name: TaintToleration}, {name: ImageLocality, weight: 4}]}",
			func(p *Plugins) []Plugin { return []Plugin{p.Score[0], p.Score[len(p.Score)-1]} }, []Plugin{{"TaintToleration", 1}, {"ImageLocality", 4}}},
		{"the point is stronger than multiPoint", "multiPoint: {enabled: [{name: ImageLocality, weight: 4}]}, score: {enabled: [{name: ImageLocality, weight: 9}]}",
			func(p *Plugins) []Plugin { return p.Score[:1] }, []Plugin{{"ImageLocality", 9}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte(head + "profiles: [{plugins: {" + tt.in + "}}]\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.list(&c.Profiles[0].Plugins); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestProfilesAndArguments(t *testing.T) {
	c, err := Parse([]byte(head + `
percentageOfNodesToScore: 50
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
leaderElection: {leaderElect: false}
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  percentageOfNodesToScore: 10
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/foo]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [batch]}]}]
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}]
extenders:
- urlPrefix: https://127.0.0.1:8443/x
  filterVerb: filter
  httpTimeout: 3s
  managedResources: [{name: example.com/gpu, ignoredByScheduler: true}]
  tlsConfig: {caData: aGVsbG8=}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Profiles[0].PercentageOfNodesToScore != 50 || c.Profiles[1].PercentageOfNodesToScore != 10 || c.InitialBackoff != 2*time.Second || c.LeaderElection.LeaderElect {
		t.Errorf("got %+v", c)
	}
	a := c.Profile("packer").Arguments
	s := a.NodeResourcesFit.ScoringStrategy
	if s.Type != schedulerv1.RequestedToCapacityRatio || s.Resources[1].Weight != 1 || s.Resources[0].Weight != 3 || len(s.RequestedToCapacityRatio.Shape) != 2 || a.NodeAffinity.AddedAffinity == nil ||
		len(a.PodTopologySpread.DefaultConstraints) != 1 || a.NodeResourcesFit.Kind != "NodeResourcesFitArgs" {
		t.Errorf("got %+v", a)
	}
	if e := c.Extenders[0]; e.HTTPTimeout.Duration != 3*time.Second || string(e.TLSConfig.CAData) != "hello" || !e.ManagedResources[0].IgnoredByScheduler {
		t.Errorf("got %+v", e)
	}
	if got := c.Profiles[0].Arguments.NodeResourcesFit.IgnoredResources; !slices.Equal(got, []string{"example.com/gpu"}) {
		t.Errorf("what an extender counts is counted twice: ignored are %v", got)
	}
	if c.Profile("nobody") != nil {
		t.Error("there is no such profile")
	}
}

func TestErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"no YAML", head + "a: [", "line 3"},
		{"a list", "- a", "line 1: want apiVersion"},
		{"another kind", "apiVersion: v1\nkind: Pod\nmetadata: {}", "line 2: want apiVersion: kubescheduler.config.k8s.io/v1 and kind: KubeSchedulerConfiguration"},
		{"an old version", "kind: KubeSchedulerConfiguration\napiVersion: kubescheduler.config.k8s.io/v1beta3", `line 2: apiVersion "kubescheduler.config.k8s.io/v1beta3" is not supported`},
		{"unknown field", head + "profiles:\n- schedulername: x", `line 4: profiles[0].schedulername: unknown field: did you mean "schedulerName"?`},
		{"twice", head + "parallelism: 1\nparallelism: 2", "line 3"},
		{"a type", head + "parallelism: many", `line 3: parallelism: want a whole number (int32), got "many"`},
		{"not whole", head + "parallelism: 1.5", "line 3: parallelism: want a whole number"},
		{"too large", head + "parallelism: 99999999999", "line 3: parallelism: want a whole number (int32)"},
		{"an object", head + "profiles: {}", "line 3: profiles: want a list, got an object"},
		{"a duration", head + "leaderElection:\n  leaseDuration: soon", "line 4: leaderElection.leaseDuration: "},
		{"an alias", head + "extenders: &x []\nprofiles: *x", "line 4: profiles: aliases are not supported"},
		{"zero parallelism", head + "parallelism: 0", `line 3: parallelism: Invalid value: 0: should be an integer value greater than zero`},
		{"percentage", head + "percentageOfNodesToScore: 101", "line 3: percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		{"backoff", head + "podInitialBackoffSeconds: 0", "line 3: podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"},
		{"backoffs", head + "podInitialBackoffSeconds: 20", "must be greater than or equal to PodInitialBackoffSeconds"},
		{"a year", head + "podMaxBackoffSeconds: 9223372036854775807", "must be at most"},
		{"burst", head + "clientConnection: {burst: -1}", "line 3: clientConnection.burst: Invalid value: -1: must be non-negative"},
		{"lease", head + "leaderElection: {leaseDuration: 5s}", "must be greater than `RenewDeadline`"},
		{"lock", head + "leaderElection: {resourceLock: endpoints}", `resourceLock value must be \"leases\"`},
		{"no name", head + "profiles: [{}, {schedulerName: a}]", "line 3: profiles[0].schedulerName: Required value"},
		{"same name", head + "profiles:\n- schedulerName: a\n- schedulerName: a", `line 5: profiles[1].schedulerName: Duplicate value: "a"`},
		{"no plugin", head + "profiles: [{plugins: {score: {enabled: [{name: imagelocality}]}}}]", `did you mean \"ImageLocality\"?`},
		{"no such plugin", head + "profiles: [{plugins: {multiPoint: {disabled: [{name: EBSLimits}]}}}]", "there is no such plugin; there are SchedulingGates, PrioritySort"},
		{"wrong point", head + "profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]", "the plugin doesn't work at this extension point"},
		{"a star", head + "profiles: [{plugins: {filter: {enabled: [{name: '*'}]}}}]", `only under \"disabled\"`},
		{"plugin twice", head + "profiles: [{plugins: {filter: {enabled: [{name: NodeName}, {name: NodeName}]}}}]", "Duplicate value"},
		{"negative weight", head + "profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: -1}]}}}]", "must not be negative"},
		{"no queue sort", head + "profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]", "exactly one queue sort plugin"},
		{"no binder", head + "profiles: [{plugins: {bind: {disabled: [{name: DefaultBinder}]}}}]", "at least one bind plugin is needed"},
		{"groups", head + "profiles: [{plugins: {placementScore: {enabled: [{name: X}]}}}]", "Forbidden"},
		{"args of nobody", head + "profiles: [{pluginConfig: [{name: Fit, args: {}}]}]", "there is no such plugin"},
		{"args twice", head + "profiles: [{pluginConfig: [{name: NodeName}, {name: NodeName}]}]", "Duplicate value"},
		{"args of none", head + "profiles: [{pluginConfig: [{name: NodeName, args: {a: 1}}]}]", "the plugin has no arguments"},
		{"args unknown", head + "profiles:\n- pluginConfig:\n  - name: InterPodAffinity\n    args:\n      hardPodAffinityweight: 1", `line 7: profiles[0].pluginConfig[0].args.hardPodAffinityweight: unknown field: did you mean "hardPodAffinityWeight"?`},
		{"args kind", head + "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {kind: Other}}]}]", `supported values: \"InterPodAffinityArgs\"`},
		{"weight", head + "profiles:\n- pluginConfig:\n  - name: InterPodAffinity\n    args:\n      hardPodAffinityWeight: 101", "line 7: profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]"},
		{"preemption", head + "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]", "cannot be zero at the same time"},
		{"strategy", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]", `Unsupported value: \"Best\"`},
		{"shape", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 11}, {utilization: 10, score: 1}]}}}}]}]", "sorted in increasing order"},
		{"shape of volumes", head + "profiles: [{pluginConfig: [{name: VolumeBinding, args: {shape: [{utilization: 0, score: 11}]}}]}]", "not in valid range [0, 10]"},
		{"no shape", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]", "must be specified when type is RequestedToCapacityRatio"},
		{"balanced", head + "profiles: [{pluginConfig: [{name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 2}]}}]}]", "must be 1"},
		{"spread", head + "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 0, labelSelector: {}}]}}]}]", "constraint must not define a selector"},
		{"affinity", head + "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}}]}]", `Unsupported value: "Is"`},
		{"volumes", head + "profiles: [{pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: -1}}]}]", "should not be a negative value"},
		{"dynamic", head + "profiles: [{pluginConfig: [{name: DynamicResources, args: {bindingTimeout: 10ms}}]}]", "must be at least 1 second"},
		{"extender weight", head + "extenders: [{urlPrefix: 'http://a', prioritizeVerb: p}]", "must have a positive weight applied to it"},
		{"extender url", head + "extenders: [{urlPrefix: here}]", "must be a URL like"},
		{"two binders", head + "extenders: [{urlPrefix: 'http://a', bindVerb: b}, {urlPrefix: 'http://b', bindVerb: b}]", "only one extender can implement bind"},
		{"managed", head + "extenders: [{urlPrefix: 'http://a', managedResources: [{name: cpu}]}]", "is an invalid extended resource name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(tt.want, `\"`, `"`)) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	t.Run("all of them", func(t *testing.T) {
		_, err := Parse([]byte(head + "parallelism: 0\npodMaxBackoffSeconds: 0\n"))
		if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
			t.Errorf("got %v", err)
		}
	})
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.yaml")
	if _, err := Load(file); err == nil {
		t.Error("there is no such file")
	}
	if err := os.WriteFile(file, []byte(head+"parallelism: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file+": line 3") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: 7}]}}}]"))
	f.Add([]byte(head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}]}]"))
	f.Add([]byte(head + "extenders: [{urlPrefix: 'http://a', httpTimeout: 3s, tlsConfig: {caData: aGVsbG8=}}]"))
	f.Add([]byte("{\"apiVersion\":\"kubescheduler.config.k8s.io/v1\",\"kind\":\"KubeSchedulerConfiguration\"}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		if len(c.Profiles) == 0 || c.InitialBackoff <= 0 || c.MaxBackoff < c.InitialBackoff || c.Parallelism <= 0 {
			t.Errorf("accepted %+v", c)
		}
		for i := range c.Profiles {
			if p := &c.Profiles[i]; p.SchedulerName == "" || len(p.Plugins.QueueSort) != 1 || len(p.Plugins.Bind) == 0 {
				t.Errorf("accepted %+v", p)
			}
		}
	})
}
