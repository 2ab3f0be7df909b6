package world

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// everything is all scenarios at once, each in a namespace of its own, with services and budgets.
func (w *world) everything(prefix string, steps func(do func())) []string {
	var namespaces []string
	type due struct {
		at time.Duration
		do func()
	}
	var plan []due
	for _, s := range scenarios() {
		ns := prefix + "-" + strings.ToLower(s.name)
		w.namespace(ns)
		namespaces = append(namespaces, ns)
		createService(w, ns)
		createBudget(w, ns)
		for _, st := range s.steps {
			plan = append(plan, due{st.at, func() { st.do(w, ns) }})
		}
	}
	start := time.Now()
	for at := time.Duration(0); at <= 4*time.Minute; at += 10 * time.Second {
		time.Sleep(time.Until(start.Add(at)))
		for _, d := range plan {
			if d.at == at {
				d.do()
			}
		}
		steps(func() {})
	}
	return namespaces
}

// What random faults do is undone when they are over: requests that fail, or only seem to, watches that break or lag, crashes, and clocks that are set.
// A seed that fails is run again with -run TestRandomFaults/SEED.
func TestRandomFaults(t *testing.T) {
	if *seeds == 0 {
		t.Skip("random worlds are looked for on demand: -world.seeds N")
	}
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			inWorld(t, 3, false, func(w *world) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				w.plan.mu.Lock()
				w.plan.rnd = rand.New(rand.NewPCG(seed, 2))
				w.plan.mu.Unlock()
				namespaces := w.everything("a", func(func()) {
					switch rnd.IntN(8) {
					case 0:
						w.plan.arm(1 + rnd.IntN(5))
					case 1:
						w.clock.jump(time.Duration(rnd.Int64N(int64(20*time.Minute))) - 10*time.Minute)
					}
				})
				time.Sleep(3 * time.Minute)
				w.plan.calm()
				w.clock.jump(0)
				time.Sleep(45 * time.Minute) // the longest pause between two attempts is a quarter of an hour
				synctest.Wait()
				w.plan.arm(-1)
				peace := w.everything("b", func(func()) {})
				time.Sleep(45 * time.Minute)
				synctest.Wait()
				for i, ns := range namespaces {
					if strings.HasSuffix(ns, "-cronjob") {
						continue // how often it ran depends on what the clock said
					}
					want, got := w.state(peace[i]), w.state(ns)
					if strings.HasSuffix(ns, "-job") {
						// Who doesn't hear of a pod's creation makes another one, and both may have ended before the first is seen: one of them counts.
						want, got = distinct(want), distinct(got)
						want = without(want, got, "Pod  of Job")
					}
					if strings.HasSuffix(ns, "-devices") {
						got = w.unused(ns, got)
					}
					if err := difference(want, got); err != nil {
						t.Errorf("%s: %v", ns, err)
					}
				}
				w.plan.arm(-1)
				time.Sleep(time.Hour)
				synctest.Wait()
				if n, record := w.plan.count(); n > 0 {
					t.Errorf("%d writes in an hour in which nothing happened: %q", n, record)
				}
			})
		})
	}
}

// unused is the state of a namespace with devices in which its shared claim has none. A scheduler whose write failed gives back what it reserved and leaves
// what it allocated; if the pod is gone by then, the claim keeps a device that nobody uses, as drivers may want it to. The next pod has to get along with
// that, and its end to be the allocation's.
func (w *world) unused(ns, state string) string {
	w.t.Helper()
	if !strings.Contains(state, "ResourceClaim of nobody (shared) allocated true reserved for 0") {
		return state
	}
	w.deviceUser(ns, "node-1", corev1.PodResourceClaim{ResourceClaimName: ptr.To("shared")})
	w.run(ns, "on-node-1")
	w.must(w.Client.CoreV1().Pods(ns).Delete(w.ctx, "on-node-1", removal))
	time.Sleep(time.Minute) // of the bubble, for who does things later
	synctest.Wait()
	return w.state(ns)
}

// without is a state without what is missing of a kind in another. Pods that have ended go with their node: a clock that was set may have it believed gone.
func without(state, other, kind string) string {
	there := strings.Split(other, "\n")
	return strings.Join(slices.DeleteFunc(strings.Split(state, "\n"), func(l string) bool {
		return strings.HasPrefix(l, kind) && !slices.Contains(there, l)
	}), "\n")
}

// distinct is a state in which what is the same is said once.
func distinct(state string) string {
	return strings.Join(slices.Compact(strings.Split(state, "\n")), "\n")
}

// A cluster in which nothing changes writes nothing for a day, but the leases of its nodes.
func TestQuietDay(t *testing.T) {
	t.Parallel()
	inWorld(t, 2, true, func(w *world) {
		for _, ns := range w.everything("a", func(func()) {}) {
			if w.state(ns) == "" {
				t.Fatalf("nothing in %s", ns)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		before, err := w.Client.CoreV1().ConfigMaps("default").List(w.ctx, metav1.ListOptions{})
		w.must(err)
		lease, err := w.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(w.ctx, "node-0", metav1.GetOptions{})
		w.must(err)
		w.plan.arm(-1)
		time.Sleep(day)
		synctest.Wait()
		if n, record := w.plan.count(); n > 0 {
			t.Errorf("%d writes in a day in which nothing happened: %q", n, record[:min(n, 20)])
		}
		// Whoever else writes shows in the revision of the whole store: there were as many as leases were renewed.
		after, err := w.Client.CoreV1().ConfigMaps("default").List(w.ctx, metav1.ListOptions{})
		w.must(err)
		renewed, err := w.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(w.ctx, "node-0", metav1.GetOptions{})
		w.must(err)
		if lease.ResourceVersion == renewed.ResourceVersion {
			t.Error("the lease was not renewed")
		}
		if n := number(t, after.ResourceVersion) - number(t, before.ResourceVersion); n != 2*int(day/heartbeat) {
			t.Errorf("%d writes to the store, want %d", n, 2*int(day/heartbeat))
		}
	})
}

func number(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
