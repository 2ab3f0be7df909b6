package policy

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func TestCondition(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Unix(1_700_000_000, 0))
	earlier := metav1.NewTime(now.Add(-time.Hour))
	good := ClusterNetworkPolicySpec{Tier: "Admin", Subject: ClusterPeer{Namespaces: &metav1.LabelSelector{}}}
	bad := good
	named := good
	named.Egress = []ClusterRule{{Action: "Accept", To: []ClusterPeer{{DomainNames: []string{"example.org"}}}}}
	bad.Egress = []ClusterRule{{Action: "Deny", To: []ClusterPeer{{DomainNames: []string{"example.org"}}}}}
	accepted := metav1.Condition{Type: ConditionAccepted, Status: metav1.ConditionTrue, Reason: "Accepted", Message: "nodes enforce all of the policy", ObservedGeneration: 1, LastTransitionTime: earlier}
	other := metav1.Condition{Type: "Other", Status: metav1.ConditionFalse}
	for _, c := range []struct {
		name       string
		names      bool
		generation int64
		spec       ClusterNetworkPolicySpec
		has        []metav1.Condition
		changed    bool
		status     metav1.ConditionStatus
		since      metav1.Time
		message    string
	}{
		{"first", true, 1, good, []metav1.Condition{other}, true, metav1.ConditionTrue, now, "enforce all"},
		{"the same", true, 1, good, []metav1.Condition{other, accepted}, false, metav1.ConditionTrue, earlier, ""},
		{"a new generation", true, 2, good, []metav1.Condition{accepted}, true, metav1.ConditionTrue, earlier, ""},
		{"not any more", true, 2, bad, []metav1.Condition{accepted}, true, metav1.ConditionFalse, now, "egress rule 0: peer 0: domainNames are for egress rules with the action Accept"},
		{"names", true, 1, named, nil, true, metav1.ConditionTrue, now, "enforce all"},
		{"names without DNS", false, 1, named, nil, true, metav1.ConditionFalse, now, "peer 0: domainNames need the cluster's DNS on every node, which is left out (--disable=dns)"},
	} {
		p := &ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: c.generation}, Spec: c.spec, Status: ClusterNetworkPolicyStatus{Conditions: c.has}}
		got, changed := p.condition(c.names, now)
		if changed != c.changed || got.Status != c.status || got.ObservedGeneration != c.generation || !got.LastTransitionTime.Equal(&c.since) || !strings.Contains(got.Message, c.message) {
			t.Errorf("%s: %v, %+v", c.name, changed, got)
		}
	}
}

// statusAPI takes statuses, at the second try.
type statusAPI struct {
	collections
	tries int // of one goroutine at a time
	wrote chan metav1.Condition
}

func (a *statusAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPatch {
		a.collections.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if a.tries++; a.tries == 1 {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"ServiceUnavailable","code":503}`, http.StatusServiceUnavailable)
		return
	}
	var got struct {
		Status ClusterNetworkPolicyStatus `json:"status"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &got)
	}
	if err != nil || r.URL.Path != policiesPath+"/p/status" || r.Header.Get("Content-Type") != "application/apply-patch+yaml" || len(got.Status.Conditions) != 1 {
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	_, _ = w.Write([]byte("{}"))
	a.wrote <- got.Status.Conditions[0]
}

// TestStatuses: each policy gets its condition, and another when it changes.
func TestStatuses(t *testing.T) {
	api := &statusAPI{collections: collections{has: map[string]string{}, watchers: map[string][]chan string{}}, wrote: make(chan metav1.Condition, 10)}
	server := httptest.NewServer(api)
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewStatuses(client.CoreV1().RESTClient(), true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	api.set(definitionsPath, `{"metadata":{"name":"`+ClusterPoliciesDefinition+`"},"spec":{"versions":[{"name":"v1alpha2","served":true}]},"status":{"conditions":[{"type":"Established","status":"True"}]}}`)
	expect := func(status metav1.ConditionStatus, generation int64) {
		t.Helper()
		select {
		case c := <-api.wrote:
			if c.Type != ConditionAccepted || c.Status != status || c.ObservedGeneration != generation {
				t.Errorf("wrote %+v", c)
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing is written")
		}
	}
	api.set(policiesPath, `{"metadata":{"name":"p","generation":1},"spec":{"tier":"Admin","subject":{"namespaces":{}}}}`)
	expect(metav1.ConditionTrue, 1)
	api.set(policiesPath, `{"metadata":{"name":"p","generation":2},"spec":{"tier":"Ruler","subject":{"namespaces":{}}}}`)
	expect(metav1.ConditionFalse, 2)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
