package extender

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/celox/celox/internal/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers every verb by a function of the question.
func serve(t *testing.T, tls bool, answers map[string]func(body []byte) any) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	for verb, f := range answers {
		mux.HandleFunc("POST /base/"+verb, func(w http.ResponseWriter, r *http.Request) {
			var raw json.RawMessage
			if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(f(raw))
		})
	}
	s := httptest.NewUnstartedServer(mux)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func extenderOf(t *testing.T, s *httptest.Server, cfg schedulerv1.Extender) *Extender {
	t.Helper()
	cfg.URLPrefix = s.URL + "/base/"
	cfg.FilterVerb, cfg.PrioritizeVerb, cfg.BindVerb, cfg.PreemptVerb = "filter", "prioritize", "bind", "preempt"
	e, err := New(cfg, lister(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// lister knows the nodes a to d.
func lister(t *testing.T) corelisters.NodeLister {
	t.Helper()
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, n := range []string{"a", "b", "c", "d"} {
		if err := store.Add(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}}); err != nil {
			t.Fatal(err)
		}
	}
	return corelisters.NewNodeLister(store)
}

func nodes(names ...string) []string { return names }

func pod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
}

func arguments(t *testing.T, body []byte) *extenderv1.ExtenderArgs {
	t.Helper()
	var args extenderv1.ExtenderArgs
	if err := json.Unmarshal(body, &args); err != nil {
		t.Error(err)
	}
	return &args
}

func TestFilter(t *testing.T) {
	for _, cached := range []bool{false, true} {
		for _, tls := range []bool{false, true} {
			s := serve(t, tls, map[string]func([]byte) any{"filter": func(body []byte) any {
				args := arguments(t, body)
				if args.Pod.Name != "p" || cached != (args.NodeNames != nil) || cached == (args.Nodes != nil) {
					t.Errorf("asked %s", body)
				}
				if cached {
					return extenderv1.ExtenderFilterResult{NodeNames: &[]string{"c", "a"}, FailedNodes: map[string]string{"b": "full", "d": "now"}, FailedAndUnresolvableNodes: map[string]string{"d": "never"}}
				}
				return extenderv1.ExtenderFilterResult{
					Nodes:       &v1.NodeList{Items: []v1.Node{args.Nodes.Items[2], args.Nodes.Items[0]}},
					FailedNodes: map[string]string{"b": "full", "d": "now"}, FailedAndUnresolvableNodes: map[string]string{"d": "never"},
				}
			}})
			cfg := schedulerv1.Extender{NodeCacheCapable: cached}
			if tls {
				cfg.TLSConfig = &schedulerv1.ExtenderTLSConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
			}
			kept, refused, helpless, err := extenderOf(t, s, cfg).Filter(t.Context(), pod("p"), nodes("a", "b", "c", "d"))
			if err != nil || !slices.Equal(kept, []string{"a", "c"}) || !maps.Equal(refused, map[string]string{"b": "full"}) || helpless["d"] != "never" {
				t.Errorf("cached %v, TLS %v: %v %v %v %v", cached, tls, kept, refused, helpless, err)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	s := serve(t, true, map[string]func([]byte) any{
		"filter":     func([]byte) any { return extenderv1.ExtenderFilterResult{Error: "broken"} },
		"prioritize": func([]byte) any { return "nothing" },
		"bind":       func([]byte) any { <-stuck; return nil },
		"preempt": func([]byte) any {
			return extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*extenderv1.MetaVictims{"z": {}}}
		},
	})
	insecure := schedulerv1.Extender{TLSConfig: &schedulerv1.ExtenderTLSConfig{Insecure: true}}
	e := extenderOf(t, s, insecure)
	want := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), s.URL) {
			t.Errorf("got %v, want it to say %q", err, text)
		}
	}
	_, _, _, err := e.Filter(t.Context(), pod("p"), nodes("a"))
	want(err, "broken")
	_, err = e.Prioritize(t.Context(), pod("p"), nodes("a"))
	want(err, "not the answer that was expected")
	_, err = e.Preempt(t.Context(), pod("p"), []scheduler.Eviction{{Node: "a"}})
	want(err, `nodeinfo not found for node name "z"`)
	hasty := insecure
	hasty.HTTPTimeout = metav1.Duration{Duration: time.Millisecond}
	want(extenderOf(t, s, hasty).Bind(t.Context(), pod("p"), "a"), "Timeout")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want(e.Bind(ctx, pod("p"), "a"), "canceled")
	_, _, _, err = extenderOf(t, s, schedulerv1.Extender{}).Filter(t.Context(), pod("p"), nodes("a"))
	want(err, "certificate")
	e.cfg.FilterVerb = "nothing"
	_, _, _, err = e.Filter(t.Context(), pod("p"), nodes("a"))
	want(err, "code 404")
	if _, err := New(schedulerv1.Extender{URLPrefix: "https://a", TLSConfig: &schedulerv1.ExtenderTLSConfig{CAFile: "/nowhere"}}, lister(t)); err == nil {
		t.Error("there is no such file")
	}
}

func TestFilterNamesAStranger(t *testing.T) {
	s := serve(t, false, map[string]func([]byte) any{"filter": func([]byte) any { return extenderv1.ExtenderFilterResult{NodeNames: &[]string{"x"}} }})
	_, _, _, err := extenderOf(t, s, schedulerv1.Extender{NodeCacheCapable: true}).Filter(t.Context(), pod("p"), nodes("a"))
	if err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("got %v", err)
	}
}

func TestPrioritize(t *testing.T) {
	s := serve(t, false, map[string]func([]byte) any{"prioritize": func([]byte) any {
		return extenderv1.HostPriorityList{{Host: "a", Score: 3}, {Host: "b", Score: 99}, {Host: "c", Score: -1}}
	}})
	got, err := extenderOf(t, s, schedulerv1.Extender{Weight: 2}).Prioritize(t.Context(), pod("p"), nodes("a", "b", "c"))
	if want := map[string]int64{"a": 60, "b": 200, "c": 0}; err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
}

func TestBind(t *testing.T) {
	s := serve(t, false, map[string]func([]byte) any{"bind": func(body []byte) any {
		var args extenderv1.ExtenderBindingArgs
		if err := json.Unmarshal(body, &args); err != nil || args.PodNamespace != "ns" || args.PodUID != types.UID("uid-"+args.PodName) || args.Node != "a" {
			t.Errorf("asked %s", body)
		}
		if args.PodName == "bad" {
			return extenderv1.ExtenderBindingResult{Error: "no"}
		}
		return extenderv1.ExtenderBindingResult{}
	}})
	e := extenderOf(t, s, schedulerv1.Extender{})
	if err := e.Bind(t.Context(), pod("good"), "a"); err != nil {
		t.Error(err)
	}
	if err := e.Bind(t.Context(), pod("bad"), "a"); err == nil || !strings.Contains(err.Error(), "no") {
		t.Errorf("got %v", err)
	}
}

func TestPreempt(t *testing.T) {
	for _, cached := range []bool{false, true} {
		s := serve(t, false, map[string]func([]byte) any{"preempt": func(body []byte) any {
			var args extenderv1.ExtenderPreemptionArgs
			if err := json.Unmarshal(body, &args); err != nil || cached != (len(args.NodeNameToMetaVictims) == 2) || cached == (len(args.NodeNameToVictims) == 2) {
				t.Errorf("asked %s", body)
			}
			return extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*extenderv1.MetaVictims{"a": {Pods: []*extenderv1.MetaPod{{UID: "uid-2"}}, NumPDBViolations: 1}}}
		}})
		got, err := extenderOf(t, s, schedulerv1.Extender{NodeCacheCapable: cached}).Preempt(t.Context(), pod("p"),
			[]scheduler.Eviction{{Node: "a", Victims: []*v1.Pod{pod("1"), pod("2")}}, {Node: "b", Victims: []*v1.Pod{pod("3")}}})
		if err != nil || len(got) != 1 || got[0].Node != "a" || len(got[0].Victims) != 1 || got[0].Victims[0].Name != "2" || got[0].Violations != 1 {
			t.Errorf("cached %v: got %v %v", cached, got, err)
		}
	}
}

func TestInterested(t *testing.T) {
	e, err := New(schedulerv1.Extender{URLPrefix: "http://a", ManagedResources: []schedulerv1.ExtenderManagedResource{{Name: "example.com/gpu"}}, Ignorable: true}, lister(t))
	if err != nil {
		t.Fatal(err)
	}
	asking := func(in *v1.ResourceList) { *in = v1.ResourceList{"example.com/gpu": resource.MustParse("1")} }
	limits, requests, first, without := pod("l"), pod("r"), pod("i"), pod("w")
	for _, p := range []*v1.Pod{limits, requests, first, without} {
		p.Spec.Containers, p.Spec.InitContainers = make([]v1.Container, 2), make([]v1.Container, 1)
	}
	asking(&limits.Spec.Containers[1].Resources.Limits)
	asking(&requests.Spec.Containers[0].Resources.Requests)
	asking(&first.Spec.InitContainers[0].Resources.Requests)
	if !e.Interested(limits) || !e.Interested(requests) || !e.Interested(first) || e.Interested(without) {
		t.Error("only pods with the resource are its business")
	}
	if !e.Ignorable() || e.Binds() || e.Name() != "http://a" {
		t.Errorf("%+v", e.cfg)
	}
	// One without verbs has no objection to anything.
	if fit, _, _, err := e.Filter(t.Context(), limits, nodes("a", "b")); err != nil || len(fit) != 2 {
		t.Errorf("got %v %v", fit, err)
	}
	if scores, err := e.Prioritize(t.Context(), limits, nodes("a")); err != nil || len(scores) > 0 {
		t.Errorf("got %v %v", scores, err)
	}
	if plans, err := e.Preempt(t.Context(), limits, []scheduler.Eviction{{Node: "a"}}); err != nil || len(plans) != 1 {
		t.Errorf("got %v %v", plans, err)
	}
	if all, err := New(schedulerv1.Extender{URLPrefix: "http://a"}, lister(t)); err != nil || !all.Interested(without) {
		t.Error("without managed resources every pod is its business")
	}
}
