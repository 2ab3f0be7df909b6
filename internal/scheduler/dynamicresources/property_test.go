package dynamicresources

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// plainNode is selected by selectors that name it.
type plainNode string

func (n plainNode) Name() string { return string(n) }
func (n plainNode) Selected(s *v1.NodeSelector) bool {
	return slices.ContainsFunc(s.NodeSelectorTerms, func(t v1.NodeSelectorTerm) bool {
		return len(t.MatchFields) == 1 && slices.Contains(t.MatchFields[0].Values, string(n))
	})
}

func numbered() func() types.UID {
	n := 0
	return func() types.UID { n++; return types.UID(fmt.Sprint("share-", n)) }
}

// world is a cluster in which everything is small, so that all ways to allocate can be tried. It is kept apart from the inventory, and knows things in its own way.
type world struct {
	devices []toy
	counter map[string]int64 // by pool
	claims  map[string]*resourcev1.ResourceClaim
}

// toy is a device.
type toy struct {
	pool, name, node string // an empty node is all of them
	x, y             int64
	cost             int64 // of the pool's counter
	tainted, shared  bool
	memory           int64 // that is shared
}

const driver = "toys.example.com"

func drawWorld(t *rapid.T) *world {
	w := &world{counter: map[string]int64{}, claims: map[string]*resourcev1.ResourceClaim{}}
	for p := range rapid.IntRange(1, 3).Draw(t, "pools") {
		pool := fmt.Sprint("pool", p)
		node := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "node")
		if rapid.Bool().Draw(t, "counts") {
			w.counter[pool] = rapid.Int64Range(1, 4).Draw(t, "counter")
		}
		for d := range rapid.IntRange(1, 3).Draw(t, "devices") {
			x := toy{pool: pool, name: fmt.Sprint("d", d), node: node, x: rapid.Int64Range(0, 1).Draw(t, "x"), y: rapid.Int64Range(0, 2).Draw(t, "y"),
				tainted: rapid.IntRange(0, 4).Draw(t, "tainted") == 0, shared: rapid.IntRange(0, 3).Draw(t, "shared") == 0}
			if w.counter[pool] > 0 {
				x.cost = rapid.Int64Range(0, 3).Draw(t, "cost")
			}
			if x.shared {
				x.memory = rapid.Int64Range(1, 3).Draw(t, "memory")
			}
			w.devices = append(w.devices, x)
		}
	}
	return w
}

// slices are the world as drivers publish it: one slice for counters, one for devices.
func (w *world) slices() []*resourcev1.ResourceSlice {
	var out []*resourcev1.ResourceSlice
	byPool := map[string]*resourcev1.ResourceSlice{}
	for _, d := range w.devices {
		s := byPool[d.pool]
		if s == nil {
			s = &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: d.pool}, Spec: resourcev1.ResourceSliceSpec{Driver: driver, Pool: resourcev1.ResourcePool{Name: d.pool, Generation: 1, ResourceSliceCount: 1}}}
			all := true
			if d.node == "" {
				s.Spec.AllNodes = &all
			} else {
				s.Spec.NodeName = &d.node
			}
			out, byPool[d.pool] = append(out, s), s
			if n := w.counter[d.pool]; n > 0 {
				s.Spec.Pool.ResourceSliceCount = 2
				counters := s.DeepCopy()
				counters.Name += "-counters"
				counters.Spec.SharedCounters = []resourcev1.CounterSet{{Name: "set", Counters: map[string]resourcev1.Counter{"units": {Value: *resource.NewQuantity(n, resource.DecimalSI)}}}}
				out = append(out, counters)
			}
		}
		dev := resourcev1.Device{Name: d.name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"x": {IntValue: &d.x}, "y": {IntValue: &d.y}}}
		if d.cost > 0 {
			dev.ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "set", Counters: map[string]resourcev1.Counter{"units": {Value: *resource.NewQuantity(d.cost, resource.DecimalSI)}}}}
		}
		if d.tainted {
			dev.Taints = []resourcev1.DeviceTaint{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoSchedule}}
		}
		if d.shared {
			dev.AllowMultipleAllocations = &d.shared
			dev.Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: *resource.NewQuantity(d.memory, resource.DecimalSI)}}
		}
		s.Spec.Devices = append(s.Spec.Devices, dev)
	}
	return out
}

// want is what a request asks for, for the world to understand without expressions.
type want struct {
	x, y              int64 // -1 is any
	count             int
	all, admin, brave bool
	memory            int64 // 0 doesn't say
	request           string
	claim             int
}

func (d *toy) suits(q *want) bool {
	if q.x >= 0 && d.x != q.x || q.y >= 0 && d.y != q.y {
		return false
	}
	return q.memory == 0 || d.shared && q.memory <= d.memory
}

func drawClaims(t *rapid.T, number *int) ([]*resourcev1.ResourceClaim, [][]want) {
	var claims []*resourcev1.ResourceClaim
	var wants [][]want // by request, its alternatives
	for c := range rapid.IntRange(1, 2).Draw(t, "claims") {
		*number++
		claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("c", *number), UID: types.UID(fmt.Sprint("u", *number))}}
		for r := range rapid.IntRange(1, 3).Draw(t, "requests") {
			name := fmt.Sprint("r", r)
			draw := func(request string) (want, resourcev1.ExactDeviceRequest) {
				q := want{x: rapid.Int64Range(-1, 1).Draw(t, "x"), y: rapid.Int64Range(-2, 2).Draw(t, "y"), count: rapid.IntRange(1, 2).Draw(t, "count"), request: request, claim: c,
					all: rapid.IntRange(0, 5).Draw(t, "all") == 0, brave: rapid.IntRange(0, 3).Draw(t, "brave") == 0}
				if rapid.IntRange(0, 5).Draw(t, "wants memory") == 0 {
					q.memory = rapid.Int64Range(1, 3).Draw(t, "memory")
				}
				e := resourcev1.ExactDeviceRequest{DeviceClassName: "toy", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: int64(q.count)}
				if q.all {
					e.AllocationMode, e.Count = resourcev1.DeviceAllocationModeAll, 0
				}
				for name, n := range map[string]int64{"x": q.x, "y": q.y} {
					if n >= 0 {
						e.Selectors = append(e.Selectors, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: fmt.Sprintf(`device.attributes[%q].%s == %d`, driver, name, n)}})
					}
				}
				if q.brave {
					e.Tolerations = []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists}}
				}
				if q.memory > 0 {
					e.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"memory": *resource.NewQuantity(q.memory, resource.DecimalSI)}}
				}
				return q, e
			}
			req := resourcev1.DeviceRequest{Name: name}
			var alternatives []want
			if rapid.IntRange(0, 2).Draw(t, "alternatives") == 0 {
				for a := range 2 {
					q, e := draw(fmt.Sprint(name, "/s", a))
					alternatives = append(alternatives, q)
					req.FirstAvailable = append(req.FirstAvailable, resourcev1.DeviceSubRequest{Name: fmt.Sprint("s", a), DeviceClassName: e.DeviceClassName, AllocationMode: e.AllocationMode, Count: e.Count,
						Selectors: e.Selectors, Tolerations: e.Tolerations, Capacity: e.Capacity})
				}
			} else {
				q, e := draw(name)
				if q.admin = rapid.IntRange(0, 5).Draw(t, "admin") == 0; q.admin {
					e.AdminAccess = &q.admin
				}
				alternatives, req.Exactly = []want{q}, &e
			}
			claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, req)
			wants = append(wants, alternatives)
		}
		name := resourcev1.FullyQualifiedName(driver + "/x")
		switch rapid.IntRange(0, 3).Draw(t, "constraint") {
		case 0:
			claim.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: &name}}
		case 1:
			name = driver + "/y"
			claim.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{DistinctAttribute: &name, Requests: []string{"r0", "r1"}}}
		}
		claims = append(claims, claim)
	}
	return claims, wants
}

// take is a device for a want.
type take struct {
	q *want
	d *toy
}

// valid says whether all that is held, and these takes for new claims, go together. It is the definition that the search is held against.
func (w *world) valid(claims []*resourcev1.ResourceClaim, takes []take) bool {
	whole, memory, units := map[*toy]int{}, map[*toy]int64{}, map[string]int64{}
	users := map[*toy]int{}
	use := func(d *toy, amount int64) {
		if users[d]++; users[d] == 1 {
			units[d.pool] += d.cost
		}
		if d.shared {
			memory[d] += amount
		} else {
			whole[d]++
		}
	}
	for _, c := range w.claims {
		for _, r := range c.Status.Allocation.Devices.Results {
			if d := w.find(r.Pool, r.Device); !value(r.AdminAccess) {
				q := r.ConsumedCapacity["memory"]
				use(d, q.Value())
			}
		}
	}
	type place struct {
		claim int
		d     *toy
	}
	inClaim := map[place]bool{}
	for _, tk := range takes {
		if at := (place{tk.q.claim, tk.d}); !tk.d.shared {
			if inClaim[at] {
				return false
			}
			inClaim[at] = true
		}
		if tk.d.tainted && !tk.q.brave {
			return false
		}
		if !tk.q.admin {
			amount := tk.q.memory
			if amount == 0 {
				amount = tk.d.memory
			}
			use(tk.d, amount)
		}
	}
	for d, n := range whole {
		if n > 1 {
			return false
		}
		_ = d
	}
	for d, n := range memory {
		if n > d.memory {
			return false
		}
	}
	for pool, n := range units {
		if n > w.counter[pool] && n > 0 {
			return false
		}
	}
	for i, c := range claims {
		for _, con := range c.Spec.Devices.Constraints {
			seen := map[int64]bool{}
			n := 0
			for _, tk := range takes {
				if tk.q.claim != i || len(con.Requests) > 0 && !slices.Contains(con.Requests, tk.q.request[:2]) {
					continue
				}
				n++
				if con.MatchAttribute != nil {
					seen[tk.d.x] = true
				} else {
					seen[tk.d.y] = true
				}
			}
			if con.MatchAttribute != nil && len(seen) > 1 || con.DistinctAttribute != nil && len(seen) != n {
				return false
			}
		}
	}
	return true
}

func (w *world) find(pool, name string) *toy {
	i := slices.IndexFunc(w.devices, func(d toy) bool { return d.pool == pool && d.name == name })
	return &w.devices[i]
}

// brute tries everything, alternatives in their order. It returns which of them it found to work first, nil if none does.
func (w *world) brute(node string, claims []*resourcev1.ResourceClaim, wants [][]want) []int {
	var near []*toy
	for i := range w.devices {
		if d := &w.devices[i]; d.node == "" || d.node == node {
			near = append(near, d)
		}
	}
	var try func(r int, chosen []int, takes []take) bool
	try = func(r int, chosen []int, takes []take) bool {
		if r == len(wants) {
			return w.valid(claims, takes)
		}
		q := &wants[r][chosen[r]]
		var fit []*toy
		for _, d := range near {
			if d.suits(q) {
				fit = append(fit, d)
			}
		}
		for mask := range 1 << len(fit) {
			next := slices.Clone(takes)
			for i, d := range fit {
				if mask&(1<<i) != 0 {
					next = append(next, take{q, d})
				}
			}
			n := len(next) - len(takes)
			if q.all && (n == 0 || n != len(fit)) || !q.all && n != q.count || !w.valid(claims, next) {
				continue
			}
			if try(r+1, chosen, next) {
				return true
			}
		}
		return false
	}
	// The choices of alternatives, the preferred ones first: like a number whose first digit counts most.
	for chosen := make([]int, len(wants)); ; {
		if try(0, chosen, nil) {
			return chosen
		}
		r := len(wants) - 1
		for ; r >= 0 && chosen[r] == len(wants[r])-1; r-- {
			chosen[r] = 0
		}
		if r < 0 {
			return nil
		}
		chosen[r]++
	}
}

// TestSearchAgainstBruteForce: over random clusters and pods that come and go, a node is said to fit exactly if there is a way to satisfy everything, the alternatives that
// are chosen are the first that work, and what is given out goes together with all that was given out before: no device twice, no counter overdrawn.
func TestSearchAgainstBruteForce(t *testing.T) {
	found, none := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		v := New(numbered())
		for _, s := range w.slices() {
			v.SetSlice(s)
		}
		v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}})
		v.SetNode("a")
		v.SetNode("b")
		number := 0
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			if names := sorted(w.claims); len(names) > 0 && rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				name := rapid.SampledFrom(names).Draw(t, "leaver")
				v.RemoveClaim("ns", name)
				delete(w.claims, name)
				continue
			}
			claims, wants := drawClaims(t, &number)
			for _, c := range claims {
				v.SetClaim(c)
			}
			ask, err := v.Prepare(claims)
			if err != nil {
				t.Fatal(err)
			}
			for _, node := range []plainNode{"a", "b"} {
				first := w.brute(string(node), claims, wants)
				if got := ask.Fits(node); got != (first != nil) || ask.problem != "" || got && ask.Problem() != "" {
					t.Fatalf("on %s: fits %v (%s), brute force says %v", node, got, ask.Problem(), first)
				}
				again, err := v.Prepare(claims) // from memory
				if err != nil || again.Fits(node) != (first != nil) {
					t.Fatalf("on %s: another answer the second time (%v)", node, err)
				}
			}
			node := plainNode(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "goes to"))
			first := w.brute(string(node), claims, wants)
			got := ask.Allocate(node)
			if (got == nil) != (first == nil) {
				t.Fatalf("on %s: allocated %v, brute force says %v", node, got, first)
			}
			if got == nil {
				none++
				for _, c := range claims {
					v.RemoveClaim(c.Namespace, c.Name)
				}
				continue
			}
			found++
			var takes []take
			for i, a := range got {
				for _, r := range a.Devices.Results {
					q := wantOf(wants, first, i, r.Request)
					if q == nil {
						t.Fatalf("%s of claim %d isn't the first alternative that works: %v", r.Request, i, first)
					}
					d := w.find(r.Pool, r.Device)
					if !d.suits(q) || d.node != "" && d.node != string(node) {
						t.Fatalf("%s got %s/%s", r.Request, r.Pool, r.Device)
					}
					takes = append(takes, take{q, d})
				}
			}
			if !w.valid(claims, takes) {
				t.Fatalf("what was allocated doesn't go together: %v", got)
			}
			for i, c := range claims {
				v.Promise(c.UID, got[i])
				done := c.DeepCopy()
				done.Status.Allocation = got[i]
				if rapid.Bool().Draw(t, "shown") {
					v.SetClaim(done)
				}
				w.claims[c.Name] = done
			}
			if rapid.IntRange(0, 3).Draw(t, "published again") == 0 {
				for _, s := range w.slices() {
					v.SetSlice(s)
				}
			}
		}
	})
	if found == 0 || none == 0 {
		t.Errorf("%d allocations, %d refusals: the test says little", found, none)
	}
}

// wantOf is the want that a result is for, if it is of the alternative that was to be chosen.
func wantOf(wants [][]want, chosen []int, claim int, request string) *want {
	for r, alternatives := range wants {
		if q := &alternatives[chosen[r]]; q.claim == claim && q.request == request {
			return q
		}
	}
	return nil
}
