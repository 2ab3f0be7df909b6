package simulate

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	// MaxNodes and maxObjects bound what one operation makes.
	MaxNodes   = 100_000
	maxObjects = 10_000_000
)

// Scenario is what is done, from top to bottom.
type Scenario struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Nodes is the size of the cluster unless the caller says otherwise; counts may refer to it.
	Nodes int `json:"nodes"`
	// Kubelets says that the nodes behave as if somebody were there: leases, pods that run and end. Without, they are only objects.
	Kubelets bool `json:"kubelets,omitempty"`
	// VirtualDelays passes over the delays of hollow nodes.
	VirtualDelays bool `json:"virtualDelays,omitempty"`
	// StartDelay and StopDelay are how long pods take to run and to end on hollow nodes.
	StartDelay metav1.Duration `json:"startDelay,omitempty"`
	StopDelay  metav1.Duration `json:"stopDelay,omitempty"`
	// PriorityClasses are made at the beginning.
	PriorityClasses map[string]int32 `json:"priorityClasses,omitempty"`
	Operations      []Operation      `json:"operations"`
}

// Operation is one step; exactly one field is set.
type Operation struct {
	CreateNodes      *CreateNodes      `json:"createNodes,omitempty"`
	CreateNamespaces *CreateNamespaces `json:"createNamespaces,omitempty"`
	CreateDevices    *CreateDevices    `json:"createDevices,omitempty"`
	CreatePods       *CreatePods       `json:"createPods,omitempty"`
	DeletePods       *DeletePods       `json:"deletePods,omitempty"`
	CreateDeployment *CreateDeployment `json:"createDeployment,omitempty"`
	ScaleDeployment  *ScaleDeployment  `json:"scaleDeployment,omitempty"`
	Churn            *Churn            `json:"churn,omitempty"`
	FailNodes        *FailNodes        `json:"failNodes,omitempty"`
	Barrier          *Barrier          `json:"barrier,omitempty"`
	Sleep            *Sleep            `json:"sleep,omitempty"`
}

// Count is a number, or one that grows with the cluster: "2*nodes", "nodes/4", "nodes".
type Count string

// UnmarshalJSON takes numbers and text.
func (c *Count) UnmarshalJSON(data []byte) error {
	*c = Count(strings.Trim(string(data), `"`))
	return nil
}

// Of is the count in a cluster of so many nodes, rounded down.
func (c Count) Of(nodes int) (int, error) {
	text := strings.ReplaceAll(string(c), " ", "")
	bad := fmt.Errorf("count %q: want a number like 100, 2*nodes or nodes/4", string(c))
	value := 0.0
	var err error
	switch {
	case text == "":
		return 0, nil
	case text == "nodes":
		value = float64(nodes)
	case strings.HasSuffix(text, "*nodes"):
		value, err = strconv.ParseFloat(strings.TrimSuffix(text, "*nodes"), 64)
		value *= float64(nodes)
	case strings.HasPrefix(text, "nodes/"):
		value, err = strconv.ParseFloat(strings.TrimPrefix(text, "nodes/"), 64)
		value = float64(nodes) / value
	default:
		var n int
		n, err = strconv.Atoi(text)
		value = float64(n)
	}
	if err != nil || math.IsNaN(value) || value < 0 || value > maxObjects {
		return 0, bad
	}
	return int(value + 1e-9), nil
}

// CreateNodes makes nodes of 4 CPUs, 32 GiB and room for 110 pods, or as the template says.
type CreateNodes struct {
	Count Count `json:"count"`
	// Zones are given to the nodes in turn, as topology.kubernetes.io/zone.
	Zones    []string `json:"zones,omitempty"`
	Template *v1.Node `json:"template,omitempty"`
}

// CreateNamespaces makes PREFIX-0, PREFIX-1 and so on.
type CreateNamespaces struct {
	Prefix string            `json:"prefix"`
	Count  Count             `json:"count"`
	Labels map[string]string `json:"labels,omitempty"`
}

// CreatePods makes pods in a namespace, or so many in each of the namespaces PREFIX-0, PREFIX-1 ...
type CreatePods struct {
	Count           Count  `json:"count"`
	Namespace       string `json:"namespace,omitempty"`
	NamespacePrefix string `json:"namespacePrefix,omitempty"`
	Namespaces      Count  `json:"namespaces,omitempty"`
	// Template is the pod; the default is upstream's: a pause container with 100m CPU and 500 MiB.
	Template *v1.Pod `json:"template,omitempty"`
	// Measure says that these are the pods whose scheduling is the scenario's figure.
	Measure bool `json:"measure,omitempty"`
	// Wait is until when the next operation waits: "scheduled" (the default), "running" or "none".
	Wait string `json:"wait,omitempty"`
	// PerSecond bounds the rate; 0 is as fast as possible.
	PerSecond int `json:"perSecond,omitempty"`
	// RunFor is how long the pods run before they have succeeded; 0 is for ever.
	RunFor metav1.Duration `json:"runFor,omitempty"`
}

// DeletePods deletes the pods of a namespace, all or some, and waits until they are gone unless Wait is "none".
type DeletePods struct {
	Namespace string `json:"namespace"`
	Count     Count  `json:"count,omitempty"`
	PerSecond int    `json:"perSecond,omitempty"`
	Wait      string `json:"wait,omitempty"`
}

// CreateDeployment makes a Deployment.
type CreateDeployment struct {
	Name      string  `json:"name"`
	Namespace string  `json:"namespace,omitempty"`
	Replicas  Count   `json:"replicas"`
	Template  *v1.Pod `json:"template,omitempty"`
	Wait      string  `json:"wait,omitempty"` // "available" (the default) or "none"
}

// ScaleDeployment changes the number of replicas, and restarts all of them if Restart says so.
type ScaleDeployment struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	Replicas  Count  `json:"replicas"`
	Restart   bool   `json:"restart,omitempty"`
	Wait      string `json:"wait,omitempty"`
}

// Churn makes a pod of each template at every interval until the scenario ends. In mode "recreate" each is deleted when there are Number of them.
type Churn struct {
	Mode      string          `json:"mode,omitempty"` // "create" (the default) or "recreate"
	Namespace string          `json:"namespace,omitempty"`
	Templates []v1.Pod        `json:"templates"`
	Interval  metav1.Duration `json:"interval"`
	Number    int             `json:"number,omitempty"`
}

// FailNodes stops the kubelets of some nodes, of one zone if it is given, for a while or for good.
type FailNodes struct {
	Count Count           `json:"count,omitempty"`
	Zone  string          `json:"zone,omitempty"`
	For   metav1.Duration `json:"for,omitempty"`
}

// Barrier waits until all pods are as it says: "scheduled", "running" or "attempted" (scheduled, or known to fit nowhere).
type Barrier struct {
	Until string `json:"until,omitempty"`
}

// Sleep waits.
type Sleep struct {
	For metav1.Duration `json:"for"`
}

// name is how an operation is called in reports.
func (o *Operation) name() string {
	for _, n := range []struct {
		is   bool
		name string
	}{
		{o.CreateNodes != nil, "createNodes"}, {o.CreateNamespaces != nil, "createNamespaces"}, {o.CreateDevices != nil, "createDevices"}, {o.CreatePods != nil, "createPods"}, {o.DeletePods != nil, "deletePods"},
		{o.CreateDeployment != nil, "createDeployment"}, {o.ScaleDeployment != nil, "scaleDeployment"}, {o.Churn != nil, "churn"}, {o.FailNodes != nil, "failNodes"},
		{o.Barrier != nil, "barrier"}, {o.Sleep != nil, "sleep"},
	} {
		if n.is {
			return n.name
		}
	}
	return ""
}

//go:embed scenarios/*.yaml
var builtin embed.FS

// Builtin lists the names of the scenarios that are built in.
func Builtin() []string {
	entries, err := builtin.ReadDir("scenarios")
	if err != nil {
		return nil // embedded: it is there
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// Named returns a scenario that is built in.
func Named(name string) (*Scenario, error) {
	data, err := builtin.ReadFile(path.Join("scenarios", name+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("there is no built-in scenario %q: use one of %s, or the name of a file", name, strings.Join(Builtin(), ", "))
	}
	return Parse(data)
}

// Parse reads a scenario in YAML or JSON. The error lists everything that is wrong with it.
func Parse(data []byte) (*Scenario, error) {
	s := &Scenario{}
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	errs, err := kjson.UnmarshalStrict(text, s)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Nodes < 0 || s.Nodes > MaxNodes {
		bad("nodes: %d: want 0 to %d", s.Nodes, MaxNodes)
	}
	if len(s.Operations) == 0 {
		bad("operations: none: the least is - createNodes: {count: nodes}")
	}
	for i := range s.Operations {
		for _, err := range s.Operations[i].check(s) {
			bad("operations[%d] %s: %w", i, s.Operations[i].name(), err)
		}
	}
	return s, errors.Join(errs...)
}

func (o *Operation) check(s *Scenario) []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	set := 0
	for _, is := range []bool{o.CreateNodes != nil, o.CreateNamespaces != nil, o.CreateDevices != nil, o.CreatePods != nil, o.DeletePods != nil, o.CreateDeployment != nil, o.ScaleDeployment != nil,
		o.Churn != nil, o.FailNodes != nil, o.Barrier != nil, o.Sleep != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		bad("want exactly one of createNodes, createNamespaces, createDevices, createPods, deletePods, createDeployment, scaleDeployment, churn, failNodes, barrier, sleep")
		return errs
	}
	count := func(c Count) {
		if _, err := c.Of(max(s.Nodes, 1)); err != nil {
			errs = append(errs, err)
		}
	}
	wait := func(w string, allowed ...string) {
		if w != "" && !slices.Contains(allowed, w) {
			bad("%q: want one of %s", w, strings.Join(allowed, ", "))
		}
		if (w == "running" || slices.Contains(allowed, "available") && w != "none") && !s.Kubelets {
			bad("pods run only with kubelets: true")
		}
	}
	switch {
	case o.CreateNodes != nil:
		count(o.CreateNodes.Count)
	case o.CreateNamespaces != nil:
		count(o.CreateNamespaces.Count)
		if o.CreateNamespaces.Prefix == "" {
			bad("prefix: give one; the namespaces are PREFIX-0, PREFIX-1 ...")
		}
	case o.CreateDevices != nil:
		if err := o.CreateDevices.check(max(s.Nodes, 1)); err != nil {
			errs = append(errs, err)
		}
	case o.CreatePods != nil:
		p := o.CreatePods
		count(p.Count)
		count(p.Namespaces)
		wait(p.Wait, "scheduled", "running", "none")
		if (p.NamespacePrefix == "") != (p.Namespaces == "") || p.NamespacePrefix != "" && p.Namespace != "" {
			bad("give namespace, or namespacePrefix together with namespaces")
		}
		if p.RunFor.Duration > 0 && !s.Kubelets {
			bad("runFor: pods run only with kubelets: true")
		}
	case o.DeletePods != nil:
		count(o.DeletePods.Count)
		wait(o.DeletePods.Wait, "gone", "none")
	case o.CreateDeployment != nil:
		count(o.CreateDeployment.Replicas)
		wait(o.CreateDeployment.Wait, "available", "none")
		if o.CreateDeployment.Name == "" {
			bad("name: give one")
		}
	case o.ScaleDeployment != nil:
		count(o.ScaleDeployment.Replicas)
		wait(o.ScaleDeployment.Wait, "available", "none")
		if o.ScaleDeployment.Name == "" {
			bad("name: give one")
		}
	case o.Churn != nil:
		if o.Churn.Interval.Duration <= 0 {
			bad("interval: want more than 0s")
		}
		if len(o.Churn.Templates) == 0 {
			bad("templates: give at least one pod")
		}
		if m := o.Churn.Mode; m != "" && m != "create" && m != "recreate" {
			bad("mode: %q: want create or recreate", m)
		}
	case o.FailNodes != nil:
		count(o.FailNodes.Count)
		if !s.Kubelets {
			bad("nodes fail only with kubelets: true")
		}
		if o.FailNodes.Count == "" && o.FailNodes.Zone == "" {
			bad("give count, zone or both")
		}
	case o.Barrier != nil:
		wait(o.Barrier.Until, "scheduled", "running", "attempted")
	}
	return errs
}
