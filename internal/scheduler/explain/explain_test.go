package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/celox/celox/internal/scheduler/config"
)

func node(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name, v1.LabelTopologyZone: "zone-" + name}}}
	n.Status.Allocatable = v1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("3")}
	for _, f := range change {
		f(n)
	}
	return n
}

func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}}}
	p.Spec.SchedulerName = v1.DefaultSchedulerName
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "img"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func asking(kv ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{}
		for i := 0; i < len(kv); i += 2 {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
		}
	}
}

func on(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func port(p *v1.Pod) {
	p.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: v1.ProtocolTCP}}
}

func tainted(key, value string) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: key, Value: value, Effect: v1.TaintEffectNoSchedule})
	}
}

func cordoned(n *v1.Node) {
	n.Spec.Unschedulable = true
	tainted(v1.TaintNodeUnschedulable, "")(n)
}

func required(terms ...v1.NodeSelectorTerm) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}}
	}
}

func explain(t *testing.T, name string, objects ...runtime.Object) *Report {
	t.Helper()
	r, err := Explain(t.Context(), fake.NewClientset(objects...), nil, "ns", name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPending(t *testing.T) {
	tests := []struct {
		name    string
		nodes   []*v1.Node
		pod     *v1.Pod
		others  []runtime.Object
		nearest string
		advice  []string
	}{
		{"more CPU", []*v1.Node{node("a"), node("b")}, pod("p", asking("cpu", "3500m")),
			[]runtime.Object{pod("x", on("a"), asking("cpu", "2")), pod("y", on("b"), asking("cpu", "3"))}, "a",
			[]string{"needs 1.5 CPU more on node a (wants 3.5, 2 of 4 is free)"}},
		{"too large for any", []*v1.Node{node("a")}, pod("p", asking("memory", "20Gi")), nil, "a", []string{"needs 20Gi memory, more than the 8Gi that node a has in all"}},
		{"no such resource", []*v1.Node{node("a")}, pod("p", asking("example.com/gpu", "1")), nil, "a", []string{"needs 1 example.com/gpu, of which node a has none"}},
		{"too many pods", []*v1.Node{node("a")}, pod("p"), []runtime.Object{pod("x", on("a")), pod("y", on("a")), pod("z", on("a"))}, "a", []string{"has all of the 3 pods"}},
		{"taint", []*v1.Node{node("a", tainted("gpu", "yes"))}, pod("p"), nil, "a", []string{"tolerate the taint gpu=yes:NoSchedule in the pod", "kubectl taint node a gpu=yes:NoSchedule-"}},
		{"not ready", []*v1.Node{node("a", tainted("node.kubernetes.io/not-ready", ""), func(n *v1.Node) {
			n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionFalse, Message: "no network"}}
		})}, pod("p"), nil, "a", []string{"the node must recover, it is not-ready (no network)"}},
		{"cordoned", []*v1.Node{node("a", cordoned)}, pod("p"), nil, "a", []string{"the nearest is a: let the node take pods again: kubectl uncordon a"}},
		{"no label", []*v1.Node{node("a")}, pod("p", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), nil, "a", []string{"label the node disk=ssd"}},
		{"another label", []*v1.Node{node("a", func(n *v1.Node) { n.Labels["disk"] = "hdd" })}, pod("p", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), nil, "a",
			[]string{"wants disk=ssd, the node has disk=hdd"}},
		{"affinity", []*v1.Node{node("a")}, pod("p", required(v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{
			{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpExists}, {Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpIn, Values: []string{"x", "y"}}}}, v1.NodeSelectorTerm{})), nil, "a",
			[]string{"topology.kubernetes.io/zone In (x, y) and the node has zone-a, or nothing: a term is empty"}},
		{"by name", []*v1.Node{node("a")}, pod("p", required(v1.NodeSelectorTerm{MatchFields: []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{"b"}}}})), nil, "a",
			[]string{"metadata.name In (b)"}},
		{"port", []*v1.Node{node("a")}, pod("p", port), []runtime.Object{pod("x", on("a"), port)}, "a", []string{"host port 80/TCP is taken by pod ns/x"}},
		{"spread", []*v1.Node{node("a")}, pod("p", func(p *v1.Pod) {
			p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{}}}
		}), nil, "a", []string{"label the node: kubectl label node a rack="}},
		{"apart", []*v1.Node{node("a")}, pod("p", func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}}}
		}), []runtime.Object{pod("x", on("a"))}, "a", []string{"must not be near"}},
		{"together", []*v1.Node{node("a")}, pod("p", func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}}}
		}), nil, "a", []string{"start that one first"}},
		{"the nearest of several", []*v1.Node{node("a", tainted("gpu", "yes"), cordoned), node("b", tainted("node.kubernetes.io/not-ready", "")), node("c")}, pod("p", asking("cpu", "4")),
			[]runtime.Object{pod("x", on("c"), asking("cpu", "1"))}, "c", []string{"needs 1 CPU more on node c"}},
		{"two problems", []*v1.Node{node("a", tainted("gpu", "yes"))}, pod("p", asking("cpu", "9")), nil, "a", []string{"tolerate the taint", "; and needs 9 CPU"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects := append(tt.others, tt.pod)
			for _, n := range tt.nodes {
				objects = append(objects, n)
			}
			r := explain(t, "p", objects...)
			if r.Nearest != tt.nearest || r.Fitting != 0 || len(r.Nodes) != len(tt.nodes) {
				t.Errorf("got %+v", r)
			}
			for _, want := range tt.advice {
				if !strings.Contains(r.Advice, want) {
					t.Errorf("got  %s\nwant %s", r.Advice, want)
				}
			}
			if s := text(t, r); !strings.Contains(s, "Pod ns/p has no node because none of") || !strings.Contains(s, "doesn't fit") {
				t.Errorf("got\n%s", s)
			}
		})
	}
}

func TestObstacles(t *testing.T) {
	now := metav1.Now()
	for want, change := range map[string]func(*v1.Pod){
		"it has scheduling gates (a, b)":    func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "a"}, {Name: "b"}} },
		`it asks for the scheduler "other"`: func(p *v1.Pod) { p.Spec.SchedulerName = "other" },
		"it is being deleted":               func(p *v1.Pod) { p.DeletionTimestamp, p.Finalizers = &now, []string{"example.com/f"} },
		"not found": func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		},
	} {
		r := explain(t, "p", pod("p", change), node("a"))
		if !strings.Contains(r.Summary, want) || r.Advice == "" {
			t.Errorf("want %q, got %s / %s", want, r.Summary, r.Advice)
		}
		if s := text(t, r); !strings.Contains(s, "a     would fit otherwise") {
			t.Errorf("%s: got\n%s", want, s)
		}
	}
	// A claim that isn't there has to be made; one that is there has something to say.
	volumes := func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{
			{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
			{Name: "own", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}},
		}
	}
	if r := explain(t, "p", pod("p", volumes), node("a")); r.Advice != "make the volume claims that aren't in namespace ns, or name others in the pod: data" {
		t.Errorf("got %s", r.Advice)
	}
	data := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data"}}
	if r := explain(t, "p", pod("p", volumes), node("a"), data); r.Advice != "look at its volume claims: kubectl -n ns describe pvc data p-own" {
		t.Errorf("got %s", r.Advice)
	}
	claim := "c"
	waiting := func(p *v1.Pod) { p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "d", ResourceClaimName: &claim}} }
	device := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: claim}}
	device.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}
	if r := explain(t, "p", pod("p", waiting), node("a"), device); !strings.Contains(r.Summary, "request r: device class gpu does not exist") || !strings.Contains(r.Advice, "describe resourceclaims") {
		t.Errorf("got %+v", r)
	}
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
	if r := explain(t, "p", pod("p", waiting), node("a"), device, class); len(r.Nodes) != 1 || len(r.Nodes[0].Problems) != 1 || !strings.Contains(r.Nodes[0].Problems[0].Change, "the node has no free devices that satisfy all claims of the pod") {
		t.Errorf("got %+v", r)
	}
	all := true
	devices := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{Driver: "d.example.com", AllNodes: &all, Pool: resourcev1.ResourcePool{Name: "x", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}}}}
	if r := explain(t, "p", pod("p", waiting), node("a"), device, class, devices); r.Fitting != 1 {
		t.Errorf("got %+v", r)
	}
	if r := explain(t, "p", pod("p")); !strings.Contains(r.Summary, "there are no nodes") || r.Advice != "add a node" {
		t.Errorf("got %+v", r)
	}
}

func TestFits(t *testing.T) {
	nominated := pod("p")
	nominated.Status.NominatedNodeName = "a"
	nominated.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: "0/1 nodes"}}
	r := explain(t, "p", nominated, node("a"))
	if s := text(t, r); !strings.Contains(s, "1 of 1 fit now, a best. Others make room for it on a.") || !strings.Contains(s, "The scheduler said: 0/1 nodes") {
		t.Errorf("got\n%s", s)
	}
	busy := pod("x", on("a"), asking("cpu", "3", "memory", "6Gi"))
	for want, r := range map[string]*Report{
		"this one is the best":                      explain(t, "p", pod("p", on("b")), node("a"), node("b"), busy),
		"Today b would be better":                   explain(t, "p", pod("p", on("a")), node("a"), node("b"), busy),
		"Today it would not be put there: tolerate": explain(t, "p", pod("p", on("a")), node("a", tainted("k", "v"))),
		"There is no such node any more":            explain(t, "p", pod("p", on("gone")), node("a")),
	} {
		if !strings.Contains(r.Summary, want) {
			t.Errorf("got %s, want %s", r.Summary, want)
		}
	}
	if s := text(t, explain(t, "p", pod("p", on("a")), node("a"))); !strings.Contains(s, "a *") {
		t.Errorf("its node isn't marked:\n%s", s)
	}
}

// The score counts the pods that a service selects together with this one.
func TestServicesCount(t *testing.T) {
	same := func(p *v1.Pod) { p.Labels = map[string]string{"app": "web"} }
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: v1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	objects := []runtime.Object{pod("p", same), node("a"), node("b"), pod("x", same, on("a"))}
	for i := range 4 {
		objects = append(objects, node(fmt.Sprint("n", i)), pod(fmt.Sprint("y", i), same, on(fmt.Sprint("n", i))))
	}
	without := explain(t, "p", objects...)
	with := explain(t, "p", append(objects, service)...)
	gap := func(r *Report) int64 {
		var a, b int64
		for _, n := range r.Nodes {
			switch n.Name {
			case "a":
				a = n.Score
			case "b":
				b = n.Score
			}
		}
		return b - a
	}
	if with.Nodes[0].Name != "b" || gap(with) <= gap(without) {
		t.Errorf("the empty node is ahead by %d with the service, by %d without", gap(with), gap(without))
	}
}

func TestManyNodes(t *testing.T) {
	objects := []runtime.Object{pod("p", asking("cpu", "9"))}
	for i := range maxShown + 5 {
		objects = append(objects, node(fmt.Sprintf("n%02d", i)))
	}
	r := explain(t, "p", objects...)
	if s := text(t, r); !strings.Contains(s, "... and 5 more nodes") {
		t.Errorf("got\n%s", s)
	}
	var b bytes.Buffer
	if err := r.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back.Nodes) != maxShown+5 || back.Nodes[0].Problems[0].Plugin != "NodeResourcesFit" {
		t.Errorf("got %v %+v", err, back)
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	c := fake.NewClientset(pod("p"), node("a"))
	c.PrependReactor("list", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumes"}, "", errors.New("no"))
	})
	r, err := Explain(t.Context(), c, config.Default(), "ns", "p")
	if err != nil || !strings.Contains(text(t, r), "because you may not read them: persistentvolumes") {
		t.Errorf("got %+v, %v", r, err)
	}
	c.PrependReactor("list", "csinodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("broken") })
	if _, err := Explain(t.Context(), c, nil, "ns", "p"); err == nil || !strings.Contains(err.Error(), "list csinodes: broken") {
		t.Errorf("got %v", err)
	}
	if _, err := Explain(t.Context(), c, nil, "ns", "nobody"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}
