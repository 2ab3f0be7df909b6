package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

// connections are those that stand.
type connections struct {
	mu sync.Mutex
	to []netip.Addr // guarded by mu
}

func (c *connections) set(to ...netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

func (c *connections) Standing(asked map[netip.Addr]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.to {
		if _, is := asked[a]; is {
			asked[a] = true
		}
	}
	return nil
}

// registrar is Names with what it tells, in virtual time.
type registrar struct {
	*Names
	t        *testing.T
	standing connections
	log      bytes.Buffer
	mu       sync.Mutex
	has      map[string]resolved // guarded by mu: by what it told
	told     int                 // guarded by mu: how often it waited for something to be in force
	forgot   int                 // guarded by mu
	fail     error               // guarded by mu
	end      func()
}

func newRegistrar(t *testing.T, path string) *registrar {
	r := &registrar{t: t, has: map[string]resolved{}}
	r.Names = NewNames(path, &r.standing, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&r.log, nil)))
	r.Follow(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forgot++
	})
	r.start(func(_ context.Context, name string) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail == nil {
			r.told++
			r.has[name] = r.get(name)
		}
		return r.fail
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx, func(name string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.has[name] = r.get(name)
		})
	}()
	r.end = func() {
		cancel()
		<-done
	}
	t.Cleanup(r.end)
	return r
}

func (r *registrar) expect(name, want string, told int) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := fmt.Sprint(r.has[name].has, r.has[name].had); got != want || r.told != told {
		r.t.Errorf("%s has %s, told %d times; want %s, %d times", name, got, r.told, want, told)
	}
}

func (r *registrar) lates() int {
	var m dto.Metric
	if err := r.late.Write(&m); err != nil {
		r.t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}

var one, two, six = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")

// TestNames is the life of addresses: they are put in force once, kept for as long as they were said to be a name's and a while, and for connections that stand.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(t, "")
		if r.Wants("a.example.") {
			t.Error("a name that no policy mentions")
		}
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Second)
		r.expect("a.example", "[] []", 0)
		r.mention(newDomains([]string{"a.example", "*.b.example"}))
		if !r.Wants("a.example.") || !r.Wants("x.b.example.") || r.Wants("b.example.") || r.forgot != 1 {
			t.Errorf("not what is mentioned; forgot %d times", r.forgot)
		}
		r.mention(newDomains([]string{"*.b.example", "a.example"}))
		if r.forgot != 1 {
			t.Errorf("the same is mentioned, and all was forgotten")
		}
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one, six}, time.Second)
		r.expect("a.example", "[192.0.2.1 2001:db8::1] []", 1)
		time.Sleep(shortestName)
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Hour) // which is in force
		r.expect("a.example", "[192.0.2.1 2001:db8::1] []", 1)
		time.Sleep(namesGrace - time.Second)
		r.expect("a.example", "[192.0.2.1 2001:db8::1] []", 1)
		time.Sleep(2 * sweepPause) // the other was not said again
		r.expect("a.example", "[192.0.2.1] []", 1)
		r.Resolved(t.Context(), "a.example.", []netip.Addr{two}, time.Second)
		r.expect("a.example", "[192.0.2.1 192.0.2.2] []", 2)
		r.standing.set(one)
		time.Sleep(time.Hour + namesGrace)
		r.expect("a.example", "[] [192.0.2.1]", 2)
		time.Sleep(24 * time.Hour)
		r.expect("a.example", "[] [192.0.2.1]", 2)
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Second) // it is the name's again
		r.expect("a.example", "[192.0.2.1] []", 3)
		time.Sleep(2 * (shortestName + namesGrace))
		r.expect("a.example", "[] [192.0.2.1]", 3)
		r.standing.set()
		time.Sleep(2 * standingEvery)
		r.expect("a.example", "[] []", 3)
		if all := r.all(); len(all) != 0 {
			t.Errorf("%v are still known", all)
		}
		if r.lates() != 0 || r.log.Len() > 0 {
			t.Errorf("%d late: %s", r.lates(), r.log.String())
		}
		r.Resolved(t.Context(), "x.b.example.", []netip.Addr{one}, time.Second)
		if gone := r.mention(newDomains([]string{"a.example"})); !slices.Equal(gone, []string{"x.b.example"}) || r.Wants("x.b.example.") {
			t.Errorf("gone: %v", gone)
		}
	})
}

// TestNamesLate: an answer leaves, with a word, also if its addresses cannot be put in force; the next waits again.
func TestNamesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(t, "")
		r.mention(newDomains([]string{"a.example"}))
		r.mu.Lock()
		r.fail = errors.New("no room")
		r.mu.Unlock()
		for range 3 {
			r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Second)
		}
		if r.lates() != 3 || strings.Count(r.log.String(), "no room") != 1 {
			t.Errorf("%d late: %s", r.lates(), r.log.String())
		}
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Second)
		r.expect("a.example", "[192.0.2.1] []", 1)
		r.start(func(ctx context.Context, _ string) error { // nobody is done
			<-ctx.Done()
			return context.Cause(ctx)
		})
		begun := time.Now()
		r.Resolved(t.Context(), "a.example.", []netip.Addr{two}, time.Second)
		if took := time.Since(begun); took != namesPatience || r.lates() != 4 {
			t.Errorf("%v, %d late", took, r.lates())
		}
		r.start(nil)
		r.Resolved(t.Context(), "a.example.", []netip.Addr{two}, time.Second)
		if r.lates() != 5 {
			t.Errorf("%d late, without rules", r.lates())
		}
	})
}

// TestNamesLimits: names below a domain have room for some; those that policies have letter for letter always.
func TestNamesLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistrar(t, "")
		r.mention(newDomains([]string{"a.example", "*.b.example"}))
		for i := range maxNames {
			r.Resolved(t.Context(), fmt.Sprintf("n%d.b.example.", i), []netip.Addr{one}, time.Second)
		}
		if r.lates() != 0 {
			t.Fatalf("%d late", r.lates())
		}
		r.Resolved(t.Context(), "more.b.example.", []netip.Addr{one}, time.Second)
		r.expect("more.b.example", "[] []", maxNames)
		var many []netip.Addr
		for i := range maxNameAddresses + 1 {
			many = append(many, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		}
		r.Resolved(t.Context(), "a.example.", many, time.Second)
		if got := len(r.get("a.example").has); got != maxNameAddresses || r.lates() != 2 {
			t.Errorf("%d addresses, %d late", got, r.lates())
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.has["a.example"].has) != maxNameAddresses {
			t.Errorf("%d are in force", len(r.has["a.example"].has))
		}
	})
}

// TestNamesRestart: another process knows them, for a while at least.
func TestNamesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "names")
		r := newRegistrar(t, path)
		r.standing.set(six)
		r.mention(newDomains([]string{"a.example", "*.b.example"}))
		r.Resolved(t.Context(), "a.example.", []netip.Addr{six}, time.Second)
		time.Sleep(2 * (shortestName + namesGrace))
		r.Resolved(t.Context(), "a.example.", []netip.Addr{one}, time.Hour)
		time.Sleep(2 * namesKeepAfter) // a process that is killed has no time to write
		synctest.Wait()
		killed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r.Resolved(t.Context(), "x.b.example.", []netip.Addr{two}, time.Second)
		r.end()
		time.Sleep(24 * time.Hour)
		again := newRegistrar(t, path)
		if !again.Wants("x.b.example.") {
			t.Error("it waits to be told what is mentioned")
		}
		for name, want := range map[string]string{"a.example": "[192.0.2.1] [2001:db8::1]", "x.b.example": "[192.0.2.2] []"} {
			if got := again.get(name); fmt.Sprint(got.has, got.had) != want {
				t.Errorf("%s has %v", name, got)
			}
		}
		again.mention(newDomains([]string{"a.example", "*.b.example"}))
		time.Sleep(namesGrace - time.Second)
		if len(again.get("a.example").has) != 1 {
			t.Error("it is forgotten at once")
		}
		time.Sleep(2 * (shortestName + namesGrace))
		again.expect("a.example", "[] []", 0)
		again.mention(newDomains(nil))
		again.end()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nothing is mentioned, and the file is there: %v", err)
		}
		if err := os.WriteFile(path, killed, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := newRegistrar(t, path).get("a.example"); fmt.Sprint(got.has, got.had) != "[192.0.2.1] [2001:db8::1]" {
			t.Errorf("after one that was killed: %v", got)
		}
		for _, damaged := range []string{"{", `{"format":2}`, `{"format":1,"names":{"a":{"b":{}}}}`} {
			if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
				t.Fatal(err)
			}
			if bad := newRegistrar(t, path); len(bad.all()) != 0 || bad.log.Len() == 0 {
				t.Errorf("%s: %v, %s", damaged, bad.all(), bad.log.String())
			}
		}
	})
}

func FuzzNamesFile(f *testing.F) {
	f.Add([]byte(`{"format":1,"mentioned":["a.example","*.b.example"],"names":{"a.example":{"192.0.2.1":{"until":1800000000},"::1":{"until":-1,"lapsed":true}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "names")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		n := NewNames(path, nil, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		n.sweep(time.Now().Add(longestName))
		n.Wants("a.example.")
		n.changed = true
		n.keep()
	})
}

// TestNamesInForce is the whole way from a policy and an answer to what a datapath has, and back.
func TestNamesInForce(t *testing.T) {
	api, cluster := clusterPoliciesFrom(t)
	api.set(definitionsPath, `{"metadata":{"name":"`+ClusterPoliciesDefinition+`"},"spec":{"versions":[{"name":"v1alpha2","served":true}]},"status":{"conditions":[{"type":"Established","status":"True"}]}}`)
	objects := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, apiPod("ns", "old", "here", "10.0.0.1", nil))
	f, own, path := informers.New(objects), podInformer(objects), &memory{}
	names := NewNames("", nil, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	e, err := New(Config{
		NodeName: "here", Informers: f, Own: own, Datapath: path, Cluster: cluster, Names: names, Log: slog.New(slog.DiscardHandler),
		Sandboxes: []Sandbox{{ID: "old", Namespace: "ns", Name: "old", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		Warn:      func(_ context.Context, _ runtime.Object, message string) { t.Error(message) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	f.StartWithContext(ctx)
	running.Go(func() { own.RunWithContext(ctx) })
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		cancel()
		running.Wait()
		f.Shutdown()
	}()
	has := func() string {
		path.mu.Lock()
		defer path.mu.Unlock()
		return path.has
	}
	until := func(what string, so func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still not: %s; in force: %s", what, has())
			}
		}
	}
	const rules = `{"metadata":{"name":"a"},"spec":{"tier":"Admin","priority":1,"subject":{"namespaces":{}},"egress":[{"action":"Accept","to":[{"domainNames":[%s]}]},{"action":"Deny","to":[{"networks":["0.0.0.0/0"]}]}]}}`
	api.set(policiesPath, fmt.Sprintf(rules, `"*.Example.org"`))
	until("mentioned", func() bool { return names.Wants("a.example.org.") })
	// The rest of this test needs no patience: what was answered is in force.
	now := func(name string, want string, addrs ...netip.Addr) {
		t.Helper()
		if name != "" {
			for put := false; !put; { // until it is so, on a machine that has no time for us
				names.Resolved(t.Context(), name, addrs, time.Second)
				names.mu.Lock()
				put = names.of[strings.TrimSuffix(name, ".")][addrs[0]].placed
				names.mu.Unlock()
			}
		}
		if got := has(); got != want {
			t.Fatalf("in force: %s\nwant: %s", got, want)
		}
	}
	const denied = " 0 0-0, 0.0.0.0 0 0-0"
	until("a rule without addresses", func() bool { return has() == "10.0.0.1 egress:  0 0-0,  0 0-0, 0.0.0.0 0 0-0" })
	now("a.example.org.", "10.0.0.1 egress: 192.0.2.1 0 0-0, "+denied, one)
	now("b.example.org.", "10.0.0.1 egress: 192.0.2.1+192.0.2.2 0 0-0, "+denied, one, two)
	if over, _ := names.sweep(time.Now().Add(shortestName + namesGrace)); len(over) != 2 {
		t.Errorf("over: %v", over)
	}
	e.note(func(w *pending) { w.names["a.example.org"], w.names["b.example.org"] = struct{}{}, struct{}{} })
	until("they are gone", func() bool { return has() == "10.0.0.1 egress:  0 0-0, "+denied })
	now("a.example.org.", "10.0.0.1 egress: 192.0.2.1 0 0-0, "+denied, one)
	api.set(policiesPath, fmt.Sprintf(rules, `"b.example.org"`))
	until("something else is mentioned", func() bool { return has() == "10.0.0.1 egress:  0 0-0, "+denied })
	if names.Wants("a.example.org.") {
		t.Error("still wanted")
	}
	path.set(errors.New("no"))
	names.Resolved(t.Context(), "b.example.org.", []netip.Addr{two}, time.Second)
	path.set(nil)
	until("what failed is tried again", func() bool { return has() == "10.0.0.1 egress: 192.0.2.2 0 0-0, "+denied })
}
