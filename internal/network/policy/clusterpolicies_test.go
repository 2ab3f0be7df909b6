package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// collections is an API server of two collections, one object in each.
type collections struct {
	mu       sync.Mutex
	has      map[string]string // by path: an object; guarded by mu
	version  int               // guarded by mu
	watchers map[string][]chan string
}

const (
	definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	policiesPath    = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
)

// object gives what a test says of an object a version.
func (c *collections) object(text string) string {
	return strings.Replace(text, `"metadata":{`, fmt.Sprintf(`"metadata":{"resourceVersion":"%d",`, c.version), 1)
}

// set changes the object at a path; "" removes it.
func (c *collections) set(path, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	kind, obj := "MODIFIED", text
	switch {
	case text == "":
		kind, obj = "DELETED", c.has[path]
	case c.has[path] == "":
		kind = "ADDED"
	}
	if c.has[path] = text; text == "" {
		delete(c.has, path)
	}
	for _, w := range c.watchers[path] {
		w <- fmt.Sprintf(`{"type":%q,"object":%s}`, kind, c.object(obj))
	}
}

func (c *collections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	c.mu.Lock()
	_, served := c.has[definitionsPath]
	if r.URL.Path != definitionsPath && !served {
		c.mu.Unlock()
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`, http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("watch") == "" {
		items := ""
		if text := c.has[r.URL.Path]; text != "" {
			items = c.object(text)
		}
		fmt.Fprintf(w, `{"metadata":{"resourceVersion":"%d"},"items":[%s]}`, c.version, items)
		c.mu.Unlock()
		return
	}
	news := make(chan string, 100)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		if text := c.has[r.URL.Path]; text != "" {
			news <- fmt.Sprintf(`{"type":"ADDED","object":%s}`, c.object(text))
		}
		news <- fmt.Sprintf(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`, c.version)
	}
	c.watchers[r.URL.Path] = append(c.watchers[r.URL.Path], news)
	c.mu.Unlock()
	for {
		select {
		case <-r.Context().Done():
			return
		case text := <-news:
			fmt.Fprintln(w, text)
			w.(http.Flusher).Flush()
		}
	}
}

// clusterPoliciesFrom returns policies as a server of the test's own has them.
func clusterPoliciesFrom(t *testing.T) (*collections, *ClusterPolicies) {
	t.Helper()
	api := &collections{has: map[string]string{}, watchers: map[string][]chan string{}}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClusterPolicies(client.CoreV1().RESTClient())
	if err != nil {
		t.Fatal(err)
	}
	return api, c
}

// TestClusterPolicies has the kind come and go.
func TestClusterPolicies(t *testing.T) {
	api, c := clusterPoliciesFrom(t)
	var mu sync.Mutex
	told := map[string]int{}
	c.notify(func(n string) {
		mu.Lock()
		defer mu.Unlock()
		told[n]++
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, so func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still not: %s", what)
			}
		}
	}
	until("synced without the kind", c.synced)
	if c.get("a") != nil {
		t.Error("a policy without its kind")
	}
	definition := func(version string) string {
		return `{"metadata":{"name":"` + ClusterPoliciesDefinition + `"},"spec":{"versions":[{"name":"` + version + `","served":true}]},"status":{"conditions":[{"type":"Established","status":"True"}]}}`
	}
	const policyA = `{"metadata":{"name":"a"},"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}},"ingress":[{"action":"Deny","from":[{"namespaces":{}}]}]}}`
	api.set(policiesPath, policyA)
	api.set(definitionsPath, definition("v1alpha1"))
	api.set(definitionsPath, definition("v1alpha2"))
	until("the policy", func() bool { return c.get("a") != nil })
	if p := c.get("a"); p.Spec.Priority != 1 || len(p.Spec.Ingress) != 1 {
		t.Errorf("%+v", p)
	}
	api.set(policiesPath, strings.Replace(policyA, `"priority":1`, `"priority":2`, 1))
	until("the change", func() bool { return c.get("a").Spec.Priority == 2 })
	mu.Lock()
	before := told["a"]
	mu.Unlock()
	api.set(definitionsPath, "")
	until("the policy to go with its kind", func() bool { return c.get("a") == nil })
	until("to be told so", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return told["a"] > before
	})
	api.set(definitionsPath, definition("v1alpha2"))
	until("the policy with its kind", func() bool { return c.get("a") != nil })
}

// TestParseCluster reads what is not as it should be: nothing of it opens anything.
func TestParseCluster(t *testing.T) {
	for _, tt := range []struct{ name, rule, want, wrong string }{
		{"a peer of a new kind", `{action: Accept, from: [{planets: {}}, {namespaces: {}}]}`, "0 1 peers", "does not know"},
		{"a peer of a new kind is denied", `{action: Deny, from: [{planets: {}}, {namespaces: {}}]}`, "1 everybody", "does not know"},
		{"a peer of a new kind is passed", `{action: Pass, from: [{planets: {}}]}`, "1 everybody", "does not know"},
		{"a protocol of a new kind", `{action: Accept, from: [{namespaces: {}}], protocols: [{quic: {}}]}`, "0 1 peers, ports []", "does not know"},
		{"a protocol of a new kind is denied", `{action: Deny, from: [{namespaces: {}}], protocols: [{quic: {}}]}`, "1 everybody", "does not know"},
		{"no action", `{from: [{namespaces: {}}]}`, "1 everybody", `action "" is not known`},
		{"no peers", `{action: Deny, from: []}`, "1 0 peers", ""},
		{"names of domains", `{action: Accept, from: [{domainNames: [a.example]}]}`, "0 0 peers", "for egress rules"},
		{"ports that are none", `{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 3}}}}]}`, "1 everybody", "no ports 9 to 3"},
		{"a network that is none", `{action: Deny, from: [{networks: [10.0.0.0/33]}]}`, "1 everybody", "10.0.0.0/33"},
		{"ports", `{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {}}]}`, "0 1 peers, ports [{6 80 80} {17 0 65535}]", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := &ClusterNetworkPolicy{}
			if err := yaml.Unmarshal([]byte("spec: {tier: Admin, subject: {namespaces: {}}, ingress: ["+tt.rule+"]}"), in); err != nil {
				t.Fatal(err)
			}
			p, err := parseCluster(in, true)
			if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("wrong: %v", err)
			}
			r := p.rules[Ingress][0]
			got := fmt.Sprintf("%d %d peers", r.verdict, len(r.peers))
			if r.anybody {
				got = fmt.Sprintf("%d everybody", r.verdict)
			}
			if r.portSpecific {
				got += fmt.Sprintf(", ports %v", r.ports)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if p, err := parseCluster(&ClusterNetworkPolicy{}, true); p != nil || err == nil {
		t.Errorf("no subject: %v, %v", p, err)
	}
}

func FuzzParseCluster(f *testing.F) {
	f.Add([]byte(`{"spec":{"tier":"Admin","subject":{"namespaces":{}},"egress":[{"action":"Deny","to":[{"networks":["0.0.0.0/0","::/0"]}],"protocols":[{"tcp":{"destinationPort":{"range":{"start":1,"end":65535}}}}]}]}}`))
	f.Add([]byte(`{"spec":{"subject":{"pods":{"namespaceSelector":{},"podSelector":{"matchExpressions":[{"key":"x","operator":"In"}]}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &ClusterNetworkPolicy{}
		if json.Unmarshal(data, in) != nil {
			return
		}
		p, err := parseCluster(in, true)
		if p == nil {
			if err == nil {
				t.Error("neither a policy nor a reason")
			}
			return
		}
		for _, rules := range p.rules {
			for _, r := range rules {
				if !slices.IsSortedFunc(r.nets, func(a, b Element) int { return a.Addr.Compare(b.Addr) }) {
					t.Errorf("networks %v", r.nets)
				}
			}
		}
	})
}

func FuzzBlock(f *testing.F) {
	f.Add("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3")
	f.Add("::/0", "ffff::/16", "::1")
	f.Add("0.0.0.0/0", "255.255.255.255/32", "255.255.255.254")
	f.Fuzz(func(t *testing.T, cidr, except, address string) { checkBlock(t, cidr, except, address) })
}
