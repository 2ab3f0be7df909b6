package flow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/apiserver/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func limited(name string, shares, lendable, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-of-" + name)}}
	l.Spec.Type = flowcontrolv1.PriorityLevelEnablementLimited
	l.Spec.Limited = &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &lendable}
	l.Spec.Limited.LimitResponse.Type = flowcontrolv1.LimitResponseTypeReject
	if queues > 0 {
		l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{
			Type:    flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length},
		}
	}
	return l
}

func forGroup(name, level, group string, precedence int32) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-of-" + name)}}
	s.Spec.PriorityLevelConfiguration.Name = level
	s.Spec.MatchingPrecedence = precedence
	s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType}
	s.Spec.Rules = []flowcontrolv1.PolicyRulesWithSubjects{{
		Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: group}}},
		ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
	}}
	return s
}

func newFilter(seats int, o objects) *Filter {
	f := &Filter{cfg: Config{Seats: seats}, levels: map[string]*level{}, metrics: newMetrics()}
	f.adjusted.Store(time.Now().UnixNano())
	f.configure(o)
	return f
}

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

var pods = &request.Info{IsResource: true, Verb: "get", Version: "v1", Resource: "pods", Namespace: "n", Path: "/api/v1/namespaces/n/pods/p"}

// suggested are the levels of a fresh cluster.
func suggested() []*flowcontrolv1.PriorityLevelConfiguration {
	return []*flowcontrolv1.PriorityLevelConfiguration{
		limited("catch-all", 5, 0, 0, 0, 0), limited("global-default", 20, 50, 128, 6, 50), limited("leader-election", 10, 0, 16, 4, 50),
		limited("node-high", 40, 25, 64, 6, 50), limited("system", 30, 33, 64, 6, 50), limited("workload-high", 40, 50, 128, 6, 50),
		limited("workload-low", 100, 90, 128, 6, 50),
	}
}

func TestDivide(t *testing.T) {
	var p []portion
	for _, l := range suggested() {
		p = append(p, portionOf(&l.Spec))
	}
	want := []capacity{{13, 13, 613}, {49, 24, 649}, {25, 25, 625}, {98, 73, 698}, {74, 50, 674}, {98, 49, 698}, {245, 24, 845}}
	for i, got := range divide(600, p) {
		if got != want[i] {
			t.Errorf("level %d has %+v, want %+v", i, got, want[i])
		}
	}
}

// Whatever levels want, nobody gets less than it may not lend or more than it may have, and while somebody wants more, all is given out.
func TestLend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "levels")
		total := rapid.IntRange(50, 1000).Draw(t, "total")
		p := make([]portion, n)
		for i := range p {
			p[i] = portion{rapid.IntRange(0, 100).Draw(t, "shares"), rapid.IntRange(0, 100).Draw(t, "lendable"), rapid.IntRange(-1, 200).Draw(t, "borrow")}
		}
		claims := make([]claim, n)
		upper, rounding := 0, n
		for i, c := range divide(total, p) {
			high := rapid.IntRange(0, 2000).Draw(t, "high")
			claims[i] = claim{capacity: c, high: high, target: float64(high) * rapid.Float64Range(0, 1).Draw(t, "part")}
			upper += c.upper
		}
		seats, _ := lend(total, claims)
		sum := 0
		for i, s := range seats {
			c := claims[i]
			if s < c.lower || s > max(1, c.upper) {
				t.Fatalf("level %d has %d seats of %+v", i, s, c)
			}
			sum += s
		}
		if sum > total+2*rounding {
			t.Fatalf("%d seats were given, there are %d", sum, total)
		}
		if want := min(total, upper); sum < want-2*rounding {
			t.Fatalf("%d seats were given of %d", sum, want)
		}
	})
}

func TestDeal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deck := rapid.IntRange(1, 200).Draw(t, "deck")
		size := rapid.IntRange(1, 8).Draw(t, "hand")
		var hand [maxHand]int
		n := deal(rapid.Uint64().Draw(t, "hash"), deck, size, &hand)
		if n != min(deck, size) {
			t.Fatalf("%d cards", n)
		}
		seen := map[int]bool{}
		for _, c := range hand[:n] {
			if c < 0 || c >= deck || seen[c] {
				t.Fatalf("hand %v of a deck of %d", hand[:n], deck)
			}
			seen[c] = true
		}
	})
	// Every card comes up about as often as any other.
	var count [16]int
	for i := range 10000 {
		var hand [maxHand]int
		n := deal(mix(hash(fnvOffset, fmt.Sprint("user-", i))), len(count), 4, &hand)
		for _, c := range hand[:n] {
			count[c]++
		}
	}
	for c, n := range count {
		if math.Abs(float64(n)-2500) > 250 {
			t.Errorf("card %d was dealt %d times in 10000 hands of 4", c, n)
		}
	}
}

func TestClassify(t *testing.T) {
	levels := suggested()
	rules := func(name string, precedence int32, r flowcontrolv1.PolicyRulesWithSubjects) *flowcontrolv1.FlowSchema {
		s := forGroup(name, "system", "x", precedence)
		s.Spec.Rules = []flowcontrolv1.PolicyRulesWithSubjects{r}
		return s
	}
	all := []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: "*"}}}
	schemas := []*flowcontrolv1.FlowSchema{
		rules("status", 10, flowcontrolv1.PolicyRulesWithSubjects{Subjects: all, ResourceRules: []flowcontrolv1.ResourcePolicyRule{
			{Verbs: []string{"update"}, APIGroups: []string{""}, Resources: []string{"pods/status"}, Namespaces: []string{"a", "b"}}}}),
		rules("nodes", 20, flowcontrolv1.PolicyRulesWithSubjects{Subjects: all, ResourceRules: []flowcontrolv1.ResourcePolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"nodes"}, ClusterScope: true}}}),
		rules("health", 30, flowcontrolv1.PolicyRulesWithSubjects{Subjects: all, NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/logs/*"}}}}),
		rules("accounts", 40, flowcontrolv1.PolicyRulesWithSubjects{
			Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "s", Name: "*"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}}}),
		forGroup("b-second", "global-default", "g", 50), forGroup("a-first", "global-default", "g", 50),
		forGroup("dangling", "no-such-level", "g", 5),
	}
	f := newFilter(600, objects{schemas, levels})
	info := func(verb, group, resource, sub, ns string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Group: group, Version: "v1", Resource: resource, Subresource: sub, Namespace: ns}
	}
	path := func(verb, p string) *request.Info { return &request.Info{Verb: verb, Path: p} }
	for _, c := range []struct {
		user   user.Info
		info   *request.Info
		schema string
	}{
		{who("u", "system:masters"), pods, "exempt"},
		{who("u"), info("update", "", "pods", "status", "a"), "status"},
		{who("u"), info("update", "", "pods", "status", "c"), "catch-all"},
		{who("u"), info("update", "", "pods", "", "a"), "catch-all"},
		{who("u"), info("update", "", "pod", "s/status", "a"), "catch-all"},
		{who("u"), info("list", "", "nodes", "", ""), "nodes"},
		{who("u"), info("list", "metrics.k8s.io", "nodes", "", ""), "catch-all"},
		{who("u"), path("get", "/healthz"), "health"},
		{who("u"), path("get", "/healthz/x"), "catch-all"},
		{who("u"), path("get", "/logs/a/b"), "health"},
		{who("u"), path("post", "/healthz"), "catch-all"},
		{who("system:serviceaccount:s:x"), pods, "accounts"},
		{who("system:serviceaccount:t:x"), pods, "catch-all"},
		{who("u", "g"), pods, "a-first"},
		{who("", "system:unauthenticated"), pods, "catch-all"},
	} {
		if got := f.classify(c.user, c.info).name; got != c.schema {
			t.Errorf("%s %s %s: %s, want %s", c.user.GetName(), c.info.Verb, c.info.Resource+c.info.Path, got, c.schema)
		}
	}
}

func TestWidth(t *testing.T) {
	for _, c := range []struct {
		work Work
		most int
		want width
	}{
		{Work{}, 10, width{seats: 1}},
		{Work{Objects: 100}, 10, width{seats: 1}},
		{Work{Objects: 101}, 10, width{seats: 2}},
		{Work{Objects: 100000}, 10, width{seats: 10}},
		{Work{Objects: 100000}, 4, width{seats: 4}},
		{Work{Watchers: 9}, 10, width{seats: 1}},
		{Work{Watchers: 10}, 10, width{seats: 1, final: 1, after: 5 * time.Millisecond}},
		{Work{Watchers: 1000}, 10, width{seats: 1, final: 10, after: 50 * time.Millisecond}},
	} {
		if got := c.work.width(c.most); got != c.want {
			t.Errorf("%+v of at most %d: %+v, want %+v", c.work, c.most, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 30 seats: 10 for each of the levels that count.
		f := newFilter(30, objects{
			[]*flowcontrolv1.FlowSchema{forGroup("reject", "reject", "r", 10), forGroup("queue", "queue", "q", 20)},
			[]*flowcontrolv1.PriorityLevelConfiguration{limited("reject", 10, 0, 0, 0, 0), limited("queue", 10, 0, 1, 1, 2), limited("catch-all", 10, 0, 0, 0, 0)},
		})
		ctx := context.Background()
		enter := func(group string) (*Ticket, error) {
			x := &Ticket{}
			return x, f.Enter(ctx, x, Request{User: who("u", group), Info: pods})
		}
		want := func(err error, reason string) {
			t.Helper()
			var r *Refused
			if !errors.As(err, &r) || r.Reason != reason || r.RetryAfter != 1 {
				t.Fatalf("got %v (%+v), want %s", err, r, reason)
			}
		}
		var in []*Ticket
		for range 10 {
			x, err := enter("r")
			if err != nil {
				t.Fatal(err)
			}
			in = append(in, x)
			if x, err = enter("q"); err != nil {
				t.Fatal(err)
			}
			in = append(in, x)
		}
		_, err := enter("r")
		want(err, reasonNoSeats)
		own := &Ticket{}
		if err := f.Enter(ctx, own, Request{User: who("u", "r"), Info: pods, Own: true}); err != nil {
			t.Fatalf("the server kept itself out: %v", err)
		}
		own.Leave()

		began := time.Now()
		waited := make(chan error, 2)
		gone, cancel := context.WithCancel(ctx)
		go func() { _, err := enter("q"); waited <- err }()
		go func() {
			x := &Ticket{}
			waited <- f.Enter(gone, x, Request{User: who("u", "q"), Info: pods})
			x.Leave()
		}()
		synctest.Wait()
		_, err = enter("q")
		want(err, reasonQueueFull)
		cancel()
		synctest.Wait()
		want(<-waited, reasonCancelled)
		want(<-waited, reasonTimeOut)
		if d := time.Since(began); d != defaultWait {
			t.Errorf("waited for %s", d)
		}
		// A quarter of the deadline.
		short, cancel := context.WithTimeout(ctx, 8*time.Second)
		defer cancel()
		began = time.Now()
		want(f.Enter(short, &Ticket{}, Request{User: who("u", "q"), Info: pods}), reasonTimeOut)
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("waited for %s of 8s", d)
		}
		for _, x := range in {
			x.Leave()
			x.Leave()
		}
		checkEmpty(t, f)
		f.close()
	})
}

func checkEmpty(t *testing.T, f *Filter) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.levels {
		l.mu.Lock()
		if l.inUse != 0 || l.executing != 0 || l.waiting != 0 || l.waitingSeats != 0 || l.active != 0 || l.sitting.n != 0 || l.demand.current != 0 {
			t.Errorf("level %s is not empty: %d seats, %d executing, %d waiting, %d active queues", l.name, l.inUse, l.executing, l.waiting, l.active)
		}
		for _, s := range l.flows {
			if s.executing != 0 || s.seats != 0 || s.waiting != 0 || s.waitingSeats != 0 {
				t.Errorf("schema %s still counts %+v", s.name, s)
			}
		}
		l.mu.Unlock()
	}
}

// A client with 500 requests in flight must not starve the node agents: neither those of another level nor another client of its own.
func TestOneCannotStarveOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(60, objects{
			[]*flowcontrolv1.FlowSchema{forGroup("nodes", "node-high", "system:nodes", 100), forGroup("others", "workload-low", "system:authenticated", 9000)},
			suggested(),
		})
		ctx, cancel := context.WithCancel(context.Background())
		defer f.close()
		const service = 50 * time.Millisecond
		serve := func(u user.Info) (time.Duration, error) {
			began := time.Now()
			x := &Ticket{}
			err := f.Enter(ctx, x, Request{User: u, Info: pods})
			waited := time.Since(began)
			if err == nil {
				time.Sleep(service)
			}
			x.Leave()
			return waited, err
		}
		var wg sync.WaitGroup
		var served, refused atomic.Int64
		for range 500 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := serve(who("bad", "system:authenticated")); err != nil {
						refused.Add(1)
						time.Sleep(time.Second)
					} else {
						served.Add(1)
					}
				}
			})
		}
		time.Sleep(30 * time.Second) // until seats have been lent to it
		var worstNode, worstPeer time.Duration
		var lost int
		for range 80 {
			var pair sync.WaitGroup
			pair.Go(func() {
				w, err := serve(who("system:node:a", "system:nodes", "system:authenticated"))
				worstNode = max(worstNode, w)
				if err != nil {
					lost++
				}
			})
			var peer time.Duration
			var peerErr error
			pair.Go(func() { peer, peerErr = serve(who("good", "system:authenticated")) })
			pair.Wait()
			worstPeer = max(worstPeer, peer)
			if peerErr != nil {
				lost++
			}
		}
		cancel()
		wg.Wait()
		if lost > 0 {
			t.Errorf("%d requests of well-behaved clients were refused", lost)
		}
		if worstNode > 0 {
			t.Errorf("a node agent waited %s", worstNode)
		}
		// It shares the seats of its level, but not its queue: it waits for its turn among the few queues that the other one fills, not
		// behind the 300 requests in them, which take more than half a second.
		if worstPeer > 5*service {
			t.Errorf("another client of the same level waited %s", worstPeer)
		}
		if served.Load() == 0 || refused.Load() == 0 {
			t.Errorf("the bad client had %d served and %d refused: it was not bad enough", served.Load(), refused.Load())
		}
		checkEmpty(t, f)
	})
}

// Flows that always have requests waiting get the same number of seats, however many each has waiting.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(20, objects{
			[]*flowcontrolv1.FlowSchema{forGroup("all", "level", "g", 100)},
			[]*flowcontrolv1.PriorityLevelConfiguration{limited("level", 100, 0, 1024, 4, 100), limited("catch-all", 1, 0, 0, 0, 0)},
		})
		defer f.close()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var served [3]atomic.Int64
		for i, clients := range []int{20, 60, 180} {
			for range clients {
				wg.Go(func() {
					for ctx.Err() == nil {
						x := &Ticket{}
						if f.Enter(ctx, x, Request{User: who(fmt.Sprint("user", i), "g"), Info: pods}) == nil {
							time.Sleep(10 * time.Millisecond)
							served[i].Add(1)
						}
						x.Leave()
					}
				})
			}
		}
		time.Sleep(8 * time.Second)
		cancel()
		wg.Wait()
		a, b, c := served[0].Load(), served[1].Load(), served[2].Load()
		for _, n := range []int64{a, b, c} {
			if mean := (a + b + c) / 3; n < mean*9/10 || n > mean*11/10 {
				t.Errorf("served %d, %d and %d", a, b, c)
				break
			}
		}
		checkEmpty(t, f)
	})
}

// What was configured anew in the middle of the traffic loses nobody.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schemas := []*flowcontrolv1.FlowSchema{forGroup("all", "level", "g", 100)}
		config := func(queues int32) objects {
			o := objects{schemas, []*flowcontrolv1.PriorityLevelConfiguration{limited("catch-all", 5, 0, 0, 0, 0)}}
			if queues >= 0 {
				o.levels = append(o.levels, limited("level", 100, 0, queues, min(queues, 4), 100))
			}
			return o
		}
		f := newFilter(20, config(64))
		defer f.close()
		var wg sync.WaitGroup
		var bad atomic.Int64
		for i := range 200 {
			wg.Go(func() {
				for range 10 {
					x := &Ticket{}
					err := f.Enter(context.Background(), x, Request{User: who(fmt.Sprint("user", i%20), "g"), Info: pods})
					var r *Refused
					if err == nil {
						time.Sleep(10 * time.Millisecond)
					} else if !errors.As(err, &r) || r.Reason != reasonNoSeats && r.Reason != reasonQueueFull {
						bad.Add(1)
					}
					x.Leave()
				}
			})
		}
		for _, q := range []int32{64, 8, 1, 128, 0, 16, -1, 64} {
			time.Sleep(50 * time.Millisecond)
			f.configure(config(q))
		}
		wg.Wait()
		if n := bad.Load(); n > 0 {
			t.Errorf("%d requests were lost", n)
		}
		checkEmpty(t, f)
	})
}

func TestRetryAfter(t *testing.T) {
	r := retryAfter{seconds: 1}
	for now := int64(100); now < 200; now++ {
		for range 80 {
			r.drop(now)
		}
	}
	if r.seconds != maxRetryAfter {
		t.Errorf("after 100 s of refusals: %d s", r.seconds)
	}
	r.drop(1000)
	if r.seconds != 1 {
		t.Errorf("long after: %d s", r.seconds)
	}
}

func BenchmarkEnterLeave(b *testing.B) {
	var schemas []*flowcontrolv1.FlowSchema
	for i := range 10 {
		schemas = append(schemas, forGroup(fmt.Sprint("other", i), "system", fmt.Sprint("group", i), int32(100+i)))
	}
	schemas = append(schemas, forGroup("all", "workload-low", "system:authenticated", 9000))
	f := newFilter(600, objects{schemas, suggested()})
	defer f.close()
	u := who("somebody", "a", "b", "system:authenticated")
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		var x Ticket
		if err := f.Enter(ctx, &x, Request{User: u, Info: pods}); err != nil {
			b.Fatal(err)
		}
		x.Leave()
	}
}
