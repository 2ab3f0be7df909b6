package dynamicresources

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
)

const (
	// maxAnswers bounds for how many forms of claims it is remembered which nodes can satisfy them.
	maxAnswers = 256
	// maxSteps bounds how many devices are tried for one pod, on all nodes together.
	maxSteps = 1 << 21
)

// answers are what was found out before, by form of claims and node.
type answers map[string]map[string]stamped

// stamped is an answer that holds as long as nothing changed.
type stamped struct {
	excuse          string
	widely, version uint64
	fits            bool
	// ranked says that rank is known: how much the alternatives are liked that would be chosen.
	ranked bool
	rank   int64
}

// Ask is the claims of one pod that have no devices yet. It is of use only until the inventory is told of something.
type Ask struct {
	v        *Inventory
	claims   []*resourcev1.ResourceClaim
	requests []request
	// options are all ways to satisfy a request, of all requests.
	options     []*option
	constraints []*constraint
	form        string
	known       map[string]stamped
	steps       int
	// problem is why the search for devices on the node that was looked at last had to be given up.
	problem string
	// excuse is why all devices of that node together don't do, where that is more than that there are none left.
	excuse string
}

// request is a request of a claim; one of the options must be satisfied, the first if possible.
type request struct{ options []*option }

// option asks for a number of devices that are as they should be.
type option struct {
	claim       int
	number      int
	main, name  string // of the request, and with the name of the alternative
	short       string // the name of the alternative alone, or of the request if there are none
	rank        int64  // how much the alternative is liked; 0 if there are none
	class       *resourcev1.DeviceClass
	filters     []selector
	all, admin  bool
	count       int
	tolerations []resourcev1.DeviceToleration
	capacity    *resourcev1.CapacityRequirements
	// found are the devices of a pool that are as they should be, whoever has them and wherever they are.
	found map[*pool][]*device
}

// selector is a filter, and how errors name it.
type selector struct {
	filter *filter
	label  string
}

// Prepare makes an Ask. Its error is a reason why the claims can't be satisfied anywhere.
func (v *Inventory) Prepare(claims []*resourcev1.ResourceClaim) (*Ask, error) {
	v.refresh()
	a := &Ask{v: v, claims: claims}
	var form strings.Builder
	for i, c := range claims {
		if err := a.addClaim(i, c); err != nil {
			return nil, err
		}
		spec, err := c.Spec.Marshal()
		if err != nil {
			return nil, fmt.Errorf("claim %s/%s: %w", c.Namespace, c.Name, err)
		}
		form.Write(spec)
		form.WriteByte(0)
	}
	a.form = form.String()
	if v.answers == nil || len(v.answers) >= maxAnswers {
		v.answers = answers{}
	}
	if a.known = v.answers[a.form]; a.known == nil {
		a.known = map[string]stamped{}
		v.answers[a.form] = a.known
	}
	return a, nil
}

func (a *Ask) addClaim(i int, c *resourcev1.ResourceClaim) error {
	least := 0 // devices that the claim gets
	for k := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[k]
		var req request
		fewest := 0
		add := func(o *option, class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64) error {
			o.claim, o.number, o.main = i, len(a.options), r.Name
			if o.class = a.v.classes[class]; o.class == nil {
				return fmt.Errorf("request %s: device class %s does not exist", o.name, class)
			}
			need := 1
			switch mode {
			case resourcev1.DeviceAllocationModeAll:
				o.all = true
			case "", resourcev1.DeviceAllocationModeExactCount:
				if count > resourcev1.AllocationResultsMaxSize {
					return fmt.Errorf("claim %s/%s, request %s: exact count %d is too large", c.Namespace, c.Name, o.short, count)
				}
				o.count = max(int(count), 1)
				need = o.count
			default:
				return fmt.Errorf("claim %s/%s, request %s: unsupported count mode %s", c.Namespace, c.Name, o.short, mode)
			}
			if fewest == 0 || need < fewest {
				fewest = need
			}
			if err := a.addFilters(o, c, o.class.Spec.Selectors, selectors); err != nil {
				return err
			}
			a.options = append(a.options, o)
			req.options = append(req.options, o)
			return nil
		}
		if e := r.Exactly; e != nil {
			o := &option{name: r.Name, short: r.Name, admin: value(e.AdminAccess), tolerations: e.Tolerations, capacity: e.Capacity}
			if err := add(o, e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count); err != nil {
				return err
			}
		}
		for s := range r.FirstAvailable {
			sub := &r.FirstAvailable[s]
			o := &option{name: r.Name + "/" + sub.Name, short: sub.Name, rank: int64(resourcev1.FirstAvailableDeviceRequestMaxSize - s), tolerations: sub.Tolerations, capacity: sub.Capacity}
			if err := add(o, sub.DeviceClassName, sub.Selectors, sub.AllocationMode, sub.Count); err != nil {
				return err
			}
		}
		if len(req.options) == 0 {
			return fmt.Errorf("claim %s/%s, request %s: unsupported request type", c.Namespace, c.Name, r.Name)
		}
		if least+fewest > resourcev1.AllocationResultsMaxSize {
			return fmt.Errorf("claim %s/%s, request %s: adding %d devices exceeds the claim limit of %d, with %d already accounted for", c.Namespace, c.Name, r.Name, fewest, resourcev1.AllocationResultsMaxSize, least)
		}
		least += fewest
		a.requests = append(a.requests, req)
	}
	for k := range c.Spec.Devices.Constraints {
		con := &c.Spec.Devices.Constraints[k]
		name, distinct := con.MatchAttribute, false
		if name == nil {
			name, distinct = con.DistinctAttribute, true
		}
		if name == nil {
			return fmt.Errorf("claim %s/%s, constraint #%d: empty constraint (unsupported constraint type?)", c.Namespace, c.Name, k)
		}
		a.constraints = append(a.constraints, &constraint{claim: i, name: string(*name), distinct: distinct, requests: con.Requests})
	}
	return nil
}

func (a *Ask) addFilters(o *option, c *resourcev1.ResourceClaim, ofClass, ofRequest []resourcev1.DeviceSelector) error {
	for _, from := range []struct {
		label string
		list  []resourcev1.DeviceSelector
	}{{"class " + o.class.Name, ofClass}, {"claim " + c.Namespace + "/" + c.Name, ofRequest}} {
		for i := range from.list {
			label := fmt.Sprintf("%s: selector #%d", from.label, i)
			if from.list[i].CEL == nil {
				return fmt.Errorf("%s: CEL expression empty (unsupported selector type?)", label)
			}
			f := a.v.filter(from.list[i].CEL.Expression)
			if f.err != nil {
				return fmt.Errorf("%s: CEL compile error: %w", label, f.err)
			}
			o.filters = append(o.filters, selector{f, label})
		}
	}
	return nil
}

// Fits says whether all claims can be satisfied on a node. What was found out before is not computed again. Problem says more.
func (a *Ask) Fits(n Node) bool {
	now := stamped{widely: a.v.widely}
	if at := a.v.local[n.Name()]; at != nil {
		now.version = at.version
	}
	a.problem, a.excuse = "", ""
	if was, ok := a.known[n.Name()]; ok && was.widely == now.widely && was.version == now.version {
		a.excuse = was.excuse
		return was.fits
	}
	s := a.search(n)
	defer s.undo(0)
	if now.fits = s.satisfy(0); now.fits {
		a.excuse = ""
	}
	if a.problem == "" {
		now.excuse = a.excuse
		a.known[n.Name()] = now
	}
	return now.fits
}

// Rank says how much the alternatives are liked that the claims get on a node on which they can be satisfied: the earlier they are in their requests the more. It is 0 if the
// claims leave no choice.
func (a *Ask) Rank(n Node) int64 {
	if !slices.ContainsFunc(a.options, func(o *option) bool { return o.rank > 0 }) || !a.Fits(n) {
		return 0
	}
	at, kept := a.known[n.Name()]
	if kept && at.ranked {
		return at.rank
	}
	s := a.search(n)
	defer s.undo(0)
	if !s.satisfy(0) || !s.prefer() {
		return 0
	}
	for _, o := range s.chosen {
		at.rank += o.rank
	}
	if at.ranked = true; kept {
		a.known[n.Name()] = at
	}
	return at.rank
}

// RankOf is what Rank says of a claim that has devices.
func RankOf(c *resourcev1.ResourceClaim) int64 {
	var sum int64
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		for k := range r.FirstAvailable {
			name := r.Name + "/" + r.FirstAvailable[k].Name
			if slices.ContainsFunc(c.Status.Allocation.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == name }) {
				sum += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - k)
			}
		}
	}
	return sum
}

// Problem is why Fits or Allocate had to give up on the node that they looked at last, or why all its devices together are not what was asked for; empty if there
// are just no such devices.
func (a *Ask) Problem() string { return cmp.Or(a.problem, a.excuse) }

// Allocate finds devices on a node for each of the claims; nil if there are none. Nothing is booked by that.
func (a *Ask) Allocate(n Node) []*resourcev1.AllocationResult {
	a.problem, a.excuse = "", ""
	s := a.search(n)
	defer s.undo(0)
	if !s.satisfy(0) || !s.prefer() {
		return nil
	}
	return s.results(n)
}
