package podautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const (
	// downscaleStabilization is how long the highest recommendation counts, unless an autoscaler says otherwise.
	downscaleStabilization = 5 * time.Minute
	// Without a behavior a workload grows at most to this many times its size, or to scaleUpMinimum.
	scaleUpFactor  = 2
	scaleUpMinimum = 4
)

// history is what an autoscaler has recommended and done. It lives in memory only: after a restart the present size is the first recommendation.
type history struct {
	recommendations []recommendation
	ups, downs      []change
}

type recommendation struct {
	replicas int32
	at       time.Time
}

// change is a change of size that was made, always positive.
type change struct {
	by int32
	at time.Time
}

// verdict is a condition's status, reason and message.
type verdict struct {
	status          corev1.ConditionStatus
	reason, message string
}

// limited is a size and why it is that one.
type limited struct {
	replicas      int32
	able, limited verdict
}

// bounds is what a size must keep within.
type bounds struct{ least, most int32 }

var (
	steady = verdict{corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size"}
	calmer = verdict{corev1.ConditionTrue, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	lazier = verdict{corev1.ConditionTrue, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
)

var (
	tooFast = [2]string{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	tooSoon = [2]string{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
	tooMany = [2]string{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	tooFew  = [2]string{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	inRange = [2]string{"DesiredWithinRange", "the desired count is within the acceptable range"}
)

func because(why [2]string) verdict {
	if why == inRange {
		return verdict{corev1.ConditionFalse, why[0], why[1]}
	}
	return verdict{corev1.ConditionTrue, why[0], why[1]}
}

// limit is the size that desired becomes, and records the recommendation.
func (h *history) limit(b *autoscalingv2.HorizontalPodAutoscalerBehavior, current, desired int32, within bounds, now time.Time) limited {
	if b == nil {
		return h.limitByDefault(current, desired, within, now)
	}
	up, down := ptr.Deref(b.ScaleUp, autoscalingv2.HPAScalingRules{}), ptr.Deref(b.ScaleDown, autoscalingv2.HPAScalingRules{})
	out := limited{able: steady}
	stable := h.stabilize(seconds(up.StabilizationWindowSeconds, 0), seconds(down.StabilizationWindowSeconds, downscaleStabilization), current, desired, now)
	if stable != desired {
		out.able = calmer
		if desired >= current {
			out.able = lazier
		}
	}
	n, why := h.byRules(&up, &down, current, stable, within, now)
	out.replicas, out.limited = n, because(why)
	return out
}

func seconds(n *int32, otherwise time.Duration) time.Duration {
	if n == nil {
		return otherwise
	}
	return time.Duration(*n) * time.Second
}

// limitByDefault is for autoscalers without a behavior.
func (h *history) limitByDefault(current, desired int32, within bounds, now time.Time) limited {
	out := limited{able: steady}
	stable := desired
	for _, r := range h.recommendations {
		if !r.at.Before(now.Add(-downscaleStabilization)) {
			stable = max(stable, r.replicas)
		}
	}
	h.recommend(desired, now, downscaleStabilization)
	if stable != desired {
		out.able = calmer
	}
	most, why := within.most, tooMany
	if fastest := max(int64(current)*scaleUpFactor, scaleUpMinimum); int64(most) > fastest {
		most, why = int32(fastest), tooFast
	}
	switch {
	case stable < within.least:
		out.replicas, out.limited = within.least, because(tooFew)
	case stable > most:
		out.replicas, out.limited = most, because(why)
	default:
		out.replicas, out.limited = stable, because(inRange)
	}
	return out
}

// recommend records a recommendation and forgets those that are older than any window.
func (h *history) recommend(n int32, now time.Time, window time.Duration) {
	h.recommendations = slices.DeleteFunc(h.recommendations, func(r recommendation) bool { return r.at.Before(now.Add(-window)) })
	h.recommendations = append(h.recommendations, recommendation{n, now})
}

// stabilize is the least change that all recommendations within the windows agree on.
func (h *history) stabilize(up, down time.Duration, current, desired int32, now time.Time) int32 {
	lowest, highest := desired, desired
	for _, r := range h.recommendations {
		if r.at.After(now.Add(-up)) {
			lowest = min(lowest, r.replicas)
		}
		if r.at.After(now.Add(-down)) {
			highest = max(highest, r.replicas)
		}
	}
	h.recommend(desired, now, max(up, down))
	return min(max(current, lowest), highest)
}

// byRules holds a change back as the policies say.
func (h *history) byRules(up, down *autoscalingv2.HPAScalingRules, current, desired int32, within bounds, now time.Time) (int32, [2]string) {
	switch {
	case desired > current:
		most, why := within.most, tooMany
		if fastest := max(h.fastest(up, current, now, true), current); most > fastest {
			most, why = fastest, tooFast
		}
		if desired > most {
			return most, why
		}
	case desired < current:
		least, why := within.least, tooFew
		if fastest := min(h.fastest(down, current, now, false), current); least < fastest {
			least, why = fastest, tooSoon
		}
		if desired < least {
			return least, why
		}
	}
	return desired, inRange
}

// fastest is the size that the rules let the workload have by now at most (up) or at least (down).
func (h *history) fastest(rules *autoscalingv2.HPAScalingRules, current int32, now time.Time, up bool) int32 {
	choice := ptr.Deref(rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if choice == autoscalingv2.DisabledPolicySelect || len(rules.Policies) == 0 {
		return current
	}
	var sizes []int32
	for _, p := range rules.Policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		start := float64(current - sum(h.ups, now.Add(-period)) + sum(h.downs, now.Add(-period)))
		percent, share := p.Type == autoscalingv2.PercentScalingPolicy, float64(p.Value)/100
		switch { // what is left of a pod, through the rounding of shares as well, is one more
		case up && percent:
			sizes = append(sizes, ceil(start*(1+share)))
		case up:
			sizes = append(sizes, ceil(start+float64(p.Value)))
		case percent:
			sizes = append(sizes, int32(math.Max(start*(1-share), 0)))
		default:
			sizes = append(sizes, int32(math.Max(start-float64(p.Value), 0)))
		}
	}
	if up == (choice == autoscalingv2.MinChangePolicySelect) {
		return slices.Min(sizes)
	}
	return slices.Max(sizes)
}

func sum(changes []change, after time.Time) int32 {
	n := int32(0)
	for _, c := range changes {
		if c.at.After(after) {
			n += c.by
		}
	}
	return n
}

// changed records a change that was made, as long as a policy may ask for it.
func (h *history) changed(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if b == nil || from == to {
		return
	}
	record := func(changes []change, rules *autoscalingv2.HPAScalingRules, by int32) []change {
		longest := time.Duration(0)
		for _, r := range []*autoscalingv2.HPAScalingRules{rules, b.ScaleUp, b.ScaleDown} { // each direction's policies count both
			if r != nil {
				for _, p := range r.Policies {
					longest = max(longest, time.Duration(p.PeriodSeconds)*time.Second)
				}
			}
		}
		changes = slices.DeleteFunc(changes, func(c change) bool { return !c.at.After(now.Add(-longest)) })
		return append(changes, change{by, now})
	}
	if to > from {
		h.ups = record(h.ups, b.ScaleUp, to-from)
	} else {
		h.downs = record(h.downs, b.ScaleDown, from-to)
	}
}
