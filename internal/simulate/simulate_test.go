package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/controller/deployment"
	"github.com/celox/celox/internal/controller/replicaset"
	"github.com/celox/celox/internal/controller/resourceclaim"
	"github.com/celox/celox/internal/controller/serviceaccount"
	"github.com/celox/celox/internal/scheduler"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is an API with what scenarios need: a scheduler and a few controllers.
func cluster(t *testing.T) Config {
	t.Helper()
	_, cfg := start(t)
	return cfg
}

func start(t *testing.T) (*controllertest.Env, Config) {
	t.Helper()
	e := controllertest.Start(t)
	log := slog.New(slog.DiscardHandler)
	m := controller.NewMetrics(prometheus.NewRegistry())
	accounts, err := serviceaccount.New(e.Client, e.Informers, log, m)
	if err != nil {
		t.Fatal(err)
	}
	deployments, err := deployment.New(e.Client, e.Informers, record.NewFakeRecorder(1<<16), clock.RealClock{}, log, m)
	if err != nil {
		t.Fatal(err)
	}
	sets, err := replicaset.New(e.Client, e.Informers, record.NewFakeRecorder(1<<16), clock.RealClock{}, log, m)
	if err != nil {
		t.Fatal(err)
	}
	s, err := scheduler.New(scheduler.Config{Client: e.Client, Informers: e.Informers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	claims, err := resourceclaim.New(resourceclaim.Config{Client: e.Client, Informers: e.Informers, Recorder: record.NewFakeRecorder(1 << 16), Clock: clock.RealClock{}, Log: log, Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, accounts, deployments, sets, claims, s)
	return e, Config{API: e.API}
}

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const everything = `
name: everything
nodes: 6
kubelets: true
virtualDelays: true
startDelay: 1h
stopDelay: 1h
priorityClasses: {high: 10}
operations:
- createNodes: {count: nodes, zones: [a, b, c]}
- createNamespaces: {prefix: ns, count: 2, labels: {team: x}}
- churn: {mode: recreate, interval: 10ms, number: 1, templates: [{spec: {priorityClassName: high, containers: [{name: c, image: i}]}}]}
- createPods: {count: 2*nodes, namespace: ns-0, measure: true, wait: running}
- createPods: {count: 3, namespacePrefix: ns, namespaces: 2, perSecond: 1000}
- createPods: {count: 2, runFor: 1h, wait: running}
- createDeployment: {name: web, replicas: nodes}
- scaleDeployment: {name: web, replicas: nodes, restart: true}
- failNodes: {zone: c, for: 1ms}
- failNodes: {count: 1}
- createPods: {count: 3, wait: none}
- barrier: {until: attempted}
- deletePods: {namespace: ns-1, count: 2, wait: none}
- sleep: {for: 1ms}
`

// Pods that have run for their time have succeeded.
func TestRunFor(t *testing.T) {
	e, cfg := start(t)
	cfg.Scenario = parse(t, "nodes: 1\nkubelets: true\noperations:\n- createNodes: {count: 1}\n- createPods: {count: 2, runFor: 1ms, wait: running}\n- sleep: {for: 30s}\n")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, cfg)
		ended <- err
	}()
	controllertest.Eventually(t, func() error {
		list, err := e.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := 0
		for i := range list.Items {
			if p := &list.Items[i]; p.Status.Phase == v1.PodSucceeded && len(p.Status.PodIPs) == 1 {
				n++
			}
		}
		if n != 2 {
			return fmt.Errorf("%d of 2 have succeeded", n)
		}
		return nil
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRun(t *testing.T) {
	cfg := cluster(t)
	cfg.Scenario = parse(t, everything)
	var mu sync.Mutex
	var lines []string
	cfg.Progress = func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, format)
	}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Phases) != len(cfg.Scenario.Operations) || r.Nodes != 6 || r.Scheduling.Pods != 12 || r.Scheduling.Scheduled != 12 || r.Scheduling.PodsPerSecond <= 0 {
		t.Errorf("got %+v", r)
	}
	// 12 and 2 were waited for until they ran, and 6 of the Deployment twice.
	if r.PodStartup.Count < 26 || r.PodBinding.Count < 32 || len(r.Series) == 0 || r.PeakResident == 0 || r.CPUSeconds <= 0 {
		t.Errorf("got %+v", r)
	}
	i := slices.IndexFunc(r.Requests, func(q Requests) bool { return q.Verb == "create" && q.Resource == "nodes" })
	if i < 0 || r.Requests[i].Count != 6 || r.Requests[i].Errors != 0 || r.Requests[i].P50 > r.Requests[i].P99 || r.Requests[i].P99 > r.Requests[i].Max {
		t.Errorf("requests %+v", r.Requests)
	}
	if len(lines) < len(r.Phases) {
		t.Errorf("progress: %d lines", len(lines))
	}
	var b bytes.Buffer
	if err := r.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Scheduling != r.Scheduling || len(back.Series) != len(r.Series) {
		t.Errorf("JSON: %v", err)
	}
	b.Reset()
	if err := r.Text(&b); err != nil || !strings.Contains(b.String(), "scheduled 12 of 12 pods") {
		t.Errorf("got %v\n%s", err, b.String())
	}
	b.Reset()
	if err := r.SVG(&b); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, &b)
}

// A cluster without kubelets: nodes take pods, which never run.
func TestRunWithoutKubelets(t *testing.T) {
	cfg := cluster(t)
	cfg.Nodes = 3
	// Pods without grace are gone at once: there is nobody who would say that they have ended.
	cfg.Scenario = parse(t, `
nodes: 100
operations:
- createNodes: {count: nodes}
- createPods: {count: 4*nodes, measure: true, template: {spec: {terminationGracePeriodSeconds: 0}}}
- barrier: {}
- deletePods: {}
`)
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Nodes != 3 || r.Scheduling.Scheduled != 12 || r.PodStartup.Count != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// Pods get devices as long as there are any.
func TestRunWithDevices(t *testing.T) {
	cfg := cluster(t)
	cfg.Scenario = parse(t, `
nodes: 3
operations:
- createNodes: {count: nodes}
- createDevices: {perNode: 2, class: c, template: t}
- createPods: {count: 6, measure: true, template: &pod {spec: {resourceClaims: [{name: d, resourceClaimTemplateName: t}], containers: [{name: c, image: i, resources: {claims: [{name: d}]}}]}}}
- createPods: {count: 1, wait: none, template: *pod}
- barrier: {until: attempted}
`)
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Scheduling.Scheduled != 6 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestStuck(t *testing.T) {
	cfg := cluster(t)
	cfg.Patience = 100 * time.Millisecond
	cfg.Scenario = parse(t, "nodes: 1\noperations:\n- createPods: {count: 1}\n")
	r, err := Run(t.Context(), cfg)
	if !errors.Is(err, errStuck) || !strings.Contains(err.Error(), "operation 0, createPods") || r == nil {
		t.Errorf("got %v, %v", r, err)
	}
	cfg.Nodes = MaxNodes + 1
	if _, err := Run(t.Context(), cfg); err == nil {
		t.Error("too many nodes")
	}
}

func wellFormed(t *testing.T, r io.Reader) {
	t.Helper()
	d := xml.NewDecoder(r)
	curves := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("SVG: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			curves++
		}
	}
	if curves != 4 {
		t.Errorf("SVG: %d curves", curves)
	}
}

func TestSVGOfNothing(t *testing.T) {
	var b bytes.Buffer
	if err := (&Report{Scenario: "<&>"}).SVG(&b); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, &b)
}

func TestBuiltin(t *testing.T) {
	names := Builtin()
	for _, want := range []string{"SchedulingBasic", "TopologySpreading", "PreferredTopologySpreading", "SchedulingPodAntiAffinity", "SchedulingPodAffinity", "PreferredPodAffinity",
		"RequiredPodAntiAffinityWithNSSelector", "SchedulingNodeAffinity", "Unschedulable", "PreemptionAsync", "PreemptionBasic", "ControlPlane", "ZoneFailure"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, name := range names {
		s, err := Named(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if s.Name != name || s.Description == "" || s.Nodes == 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if _, err := Named("Nothing"); err == nil || !strings.Contains(err.Error(), "SchedulingBasic") {
		t.Errorf("got %v", err)
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"operations: []": "operations: none",
		"operations: [{createNodes: {cuont: 1}}]": `unknown field "operations[0].createNodes.cuont"`,
		"operations: [{}]":                        "want exactly one of createNodes",
		"nodes: 1\noperations: [{createDevices: {perNode: 129, class: c, template: t}}]": "perNode: 129: want 1 to 128",
		"nodes: 1\noperations: [{createDevices: {perNode: 1, class: c}}]":                "class and template: give both a name",
		"operations: [{barrier: {}, sleep: {}}]":                                         "want exactly one of createNodes",
		"operations: [{createNodes: {count: many}}]":                                     `count "many": want a number like 100, 2*nodes or nodes/4`,
		"operations: [{createNodes: {count: -1}}]":                                       "want a number",
		"operations: [{createNodes: {count: nodes/0}}]":                                  "want a number",
		"operations: [{createPods: {count: 1, wait: running}}]":                          "kubelets: true",
		"operations: [{createPods: {count: 1, wait: soon}}]":                             "want one of scheduled, running, none",
		"operations: [{createPods: {count: 1, runFor: 1s}}]":                             "kubelets: true",
		"operations: [{createPods: {count: 1, namespacePrefix: x}}]":                     "namespacePrefix together with namespaces",
		"operations: [{createNamespaces: {count: 1}}]":                                   "prefix: give one",
		"operations: [{churn: {}}]":                                                      "interval: want more than 0s",
		"operations: [{churn: {interval: 1s, mode: x, templates: [{}]}}]":                "want create or recreate",
		"kubelets: true\noperations: [{failNodes: {}}]":                                  "give count, zone or both",
		"operations: [{failNodes: {count: 1}}]":                                          "kubelets: true",
		"kubelets: true\noperations: [{createDeployment: {replicas: 1}}]":                "name: give one",
		"kubelets: true\noperations: [{scaleDeployment: {replicas: 1}}]":                 "name: give one",
		"kubelets: true\noperations: [{createDeployment: {name: a, wait: running}}]":     "want one of available, none",
		"nodes: -1\noperations: [{sleep: {for: 1s}}]":                                    "nodes: -1",
		"operations: [{deletePods: {namespace: a, wait: x}}]":                            "want one of gone, none",
		"operations: [{barrier: {until: x}}]":                                            "want one of scheduled, running, attempted",
		"operations: [{createPods: {count: 1, template: {spec: {container: []}}}}]":      `unknown field "operations[0].createPods.template.spec.container"`,
	} {
		if _, err := Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", in, err, want)
		}
	}
}

func TestCount(t *testing.T) {
	for in, want := range map[Count]int{"": 0, "7": 7, "nodes": 50, "2*nodes": 100, "0.5 * nodes": 25, "nodes/4": 12, "0.1*nodes": 5} {
		if got, err := in.Of(50); err != nil || got != want {
			t.Errorf("%q: got %d %v, want %d", in, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("operations: [{createNodes: {count: nodes/3}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		for i := range s.Operations {
			if s.Operations[i].name() == "" {
				t.Errorf("accepted %+v", s.Operations[i])
			}
		}
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(2*time.Minute)), 1, 500).Draw(t, "durations")
		var h, half histogram
		for i, d := range all {
			if i%2 == 0 {
				h.add(time.Duration(d))
			} else {
				half.add(time.Duration(d))
			}
		}
		h.merge(&half)
		slices.Sort(all)
		for _, q := range []float64{.5, .9, .99, 1} {
			exact := time.Duration(all[min(int(q*float64(len(all))+.999999)-1, len(all)-1)])
			got := h.quantile(q)
			if got < exact-time.Microsecond || float64(got) > float64(max(exact, firstBucket))*step+1 {
				t.Fatalf("%v: got %v, exact %v of %d", q, got, exact, len(all))
			}
		}
	})
	if (&histogram{}).quantile(.5) != 0 {
		t.Error("nothing takes no time")
	}
}

func BenchmarkHistogram(b *testing.B) {
	b.ReportAllocs()
	var h histogram
	r := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		h.add(time.Duration(r.Int64N(int64(time.Second))))
	}
}

func TestClassify(t *testing.T) {
	for in, want := range map[string]call{
		"GET /api/v1/pods":                                           {"list", "pods"},
		"GET /api/v1/namespaces/a/pods":                              {"list", "pods"},
		"GET /api/v1/namespaces/a/pods/b":                            {"get", "pods"},
		"GET /api/v1/namespaces/a":                                   {"get", "namespaces"},
		"POST /api/v1/namespaces":                                    {"create", "namespaces"},
		"PATCH /api/v1/namespaces/a/pods/b/status":                   {"patch", "pods/status"},
		"PUT /apis/coordination.k8s.io/v1/namespaces/a/leases/b":     {"update", "leases"},
		"DELETE /apis/apps/v1/namespaces/a/deployments":              {"deletecollection", "deployments"},
		"DELETE /apis/apps/v1/namespaces/a/deployments/b":            {"delete", "deployments"},
		"GET /healthz":                                               {"get", "other"},
		"GET /apis/scheduling.k8s.io/v1/priorityclasses?watch=true ": {"", "priorityclasses"},
	} {
		method, url, _ := strings.Cut(strings.TrimSpace(in), " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "http://x"+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, watch := classify(r)
		if got != want || watch != strings.Contains(in, "watch") {
			t.Errorf("%s: got %v %v", in, got, watch)
		}
	}
}
