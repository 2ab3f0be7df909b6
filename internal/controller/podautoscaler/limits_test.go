package podautoscaler

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// step is what is wanted at a time, and what becomes of it.
type step struct {
	after   time.Duration // since the step before
	wanted  int32
	want    int32
	able    string
	limited string
}

func rules(window int32, choice autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choice, Policies: policies}
}

func podsIn(n, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: seconds}
}

func percentIn(n, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: seconds}
}

func TestLimits(t *testing.T) {
	const ready, calm, lazy = "ReadyForNewScale", "ScaleDownStabilized", "ScaleUpStabilized"
	const within, fast, soon, many, few = "DesiredWithinRange", "ScaleUpLimit", "ScaleDownLimit", "TooManyReplicas", "TooFewReplicas"
	usual := &autoscalingv2.HorizontalPodAutoscalerBehavior{ // what the API server fills in
		ScaleUp:   rules(0, autoscalingv2.MaxChangePolicySelect, podsIn(4, 15), percentIn(100, 15)),
		ScaleDown: &autoscalingv2.HPAScalingRules{SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect), Policies: []autoscalingv2.HPAScalingPolicy{percentIn(100, 15)}},
	}
	for _, c := range []struct {
		name     string
		behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
		current  int32
		steps    []step
	}{
		{"no behavior: doubling, then the maximum", nil, 3, []step{{0, 50, 6, ready, fast}, {15 * time.Second, 50, 12, ready, fast}, {15 * time.Second, 50, 20, ready, many}}},
		{"no behavior: from one to four", nil, 1, []step{{0, 50, 4, ready, fast}}},
		{"no behavior: five minutes of calm", nil, 8, []step{{0, 3, 8, calm, within}, {4 * time.Minute, 3, 8, calm, within}, {2 * time.Minute, 3, 3, ready, within}}},
		{"no behavior: the minimum", nil, 3, []step{{6 * time.Minute, 1, 2, ready, few}}},
		{"usual: four or double in 15 s", usual, 2, []step{{0, 50, 6, ready, fast}, {5 * time.Second, 50, 6, ready, fast}, {15 * time.Second, 50, 12, ready, fast}}},
		{"usual: down after five minutes", usual, 8, []step{{time.Minute, 3, 8, calm, within}, {5 * time.Minute, 3, 3, ready, within}}},
		{"down by one a minute", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: usual.ScaleUp, ScaleDown: rules(0, autoscalingv2.MaxChangePolicySelect, podsIn(1, 60))}, 6,
			[]step{{0, 2, 5, ready, soon}, {30 * time.Second, 2, 5, ready, soon}, {31 * time.Second, 2, 4, ready, soon}, {61 * time.Second, 3, 3, ready, within}}},
		{"the smaller of two", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(0, autoscalingv2.MinChangePolicySelect, podsIn(4, 60), percentIn(10, 60)), ScaleDown: usual.ScaleDown}, 10,
			[]step{{0, 20, 11, ready, fast}}},
		{"half at most", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: usual.ScaleUp, ScaleDown: rules(0, autoscalingv2.MaxChangePolicySelect, percentIn(50, 60))}, 16,
			[]step{{0, 2, 8, ready, soon}, {61 * time.Second, 2, 4, ready, soon}}},
		{"never down", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: usual.ScaleUp, ScaleDown: rules(0, autoscalingv2.DisabledPolicySelect, podsIn(1, 60))}, 6, []step{{0, 2, 6, ready, soon}}},
		{"slow to grow", &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(60, autoscalingv2.MaxChangePolicySelect, podsIn(100, 15)), ScaleDown: usual.ScaleDown}, 2,
			[]step{{0, 9, 2, lazy, within}, {30 * time.Second, 7, 2, lazy, within}, {31 * time.Second, 9, 7, lazy, within}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, now, current := &history{recommendations: []recommendation{{c.current, noon}}}, noon, c.current
			for i, s := range c.steps {
				now = now.Add(s.after)
				got := h.limit(c.behavior, current, s.wanted, bounds{2, 20}, now)
				if got.replicas != s.want || got.able.reason != s.able || got.limited.reason != s.limited {
					t.Fatalf("step %d: %+v, want %+v", i, got, s)
				}
				h.changed(c.behavior, current, got.replicas, now)
				current = got.replicas
			}
		})
	}
}

// Whatever is wanted, whenever: the size stays within its bounds, and does not go against what is wanted and was.
func TestLimitsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.Custom(func(t *rapid.T) autoscalingv2.HPAScalingPolicy {
			kind := rapid.SampledFrom([]autoscalingv2.HPAScalingPolicyType{autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy}).Draw(t, "type")
			return autoscalingv2.HPAScalingPolicy{Type: kind, Value: rapid.Int32Range(1, 200).Draw(t, "value"), PeriodSeconds: rapid.Int32Range(1, 1800).Draw(t, "period")}
		})
		rule := rapid.Custom(func(t *rapid.T) *autoscalingv2.HPAScalingRules {
			choice := rapid.SampledFrom([]autoscalingv2.ScalingPolicySelect{autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect}).Draw(t, "choice")
			return rules(rapid.Int32Range(0, 3600).Draw(t, "window"), choice, rapid.SliceOfN(policy, 1, 3).Draw(t, "policies")...)
		})
		var b *autoscalingv2.HorizontalPodAutoscalerBehavior
		if rapid.Bool().Draw(t, "behavior") {
			b = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule.Draw(t, "up"), ScaleDown: rule.Draw(t, "down")}
		}
		within := bounds{rapid.Int32Range(1, 10).Draw(t, "least"), rapid.Int32Range(10, 1000).Draw(t, "most")}
		current := rapid.Int32Range(within.least, within.most).Draw(t, "current")
		h, now := &history{recommendations: []recommendation{{current, noon}}}, noon
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "after")))
			wanted := rapid.Int32Range(0, 2000).Draw(t, "wanted")
			got := h.limit(b, current, wanted, within, now).replicas
			if got < within.least || got > within.most {
				t.Fatalf("%d is not within %+v", got, within)
			}
			if got > max(current, wanted) && b != nil || got < min(current, wanted) && wanted >= within.least {
				t.Fatalf("from %d to %d, when %d was wanted", current, got, wanted)
			}
			h.changed(b, current, got, now)
			current = got
			if len(h.recommendations) > 52 || len(h.ups)+len(h.downs) > 50 {
				t.Fatal("the history grows for ever")
			}
		}
	})
}
