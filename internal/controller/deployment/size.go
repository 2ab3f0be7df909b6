package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bounds resolves the strategy's numbers or percents: surge rounds up, unavailable down; if both come to nothing one pod may be
// unavailable, for otherwise the rollout could not move.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	replicas := *d.Spec.Replicas
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	scaled := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(replicas), up)
		if err != nil {
			return 0 // validation admits numbers and percents only
		}
		return int32(n)
	}
	surge, unavailable = scaled(d.Spec.Strategy.RollingUpdate.MaxSurge, true), scaled(d.Spec.Strategy.RollingUpdate.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, replicas)
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := bounds(d)
	return surge
}

func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := bounds(d)
	return unavailable
}

func specified(sets []*appsv1.ReplicaSet) int32 {
	var n int32
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

// newReplicas says how many replicas the new set may have now.
func newReplicas(d *appsv1.Deployment, all []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet) int32 {
	replicas := *d.Spec.Replicas
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return replicas
	}
	have := *rs.Spec.Replicas
	if have >= replicas {
		return replicas
	}
	room := replicas + maxSurge(d) - specified(all)
	if room <= 0 {
		return have
	}
	return have + min(room, replicas-have)
}

// shrinkPlan says to what size old sets shrink now, by uid: unhealthy replicas first, which serve nobody, then healthy ones as long as
// enough stay available. What a set's status counts beyond its size is about to go, and counts for nothing: the status is behind.
func shrinkPlan(d *appsv1.Deployment, all []*appsv1.ReplicaSet, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) map[types.UID]int32 {
	plan := map[types.UID]int32{}
	if specified(old) == 0 {
		return plan
	}
	minAvailable := *d.Spec.Replicas - maxUnavailable(d)
	newUnavailable := *newSet.Spec.Replicas - available(newSet)
	budget := specified(all) - minAvailable - newUnavailable
	if budget <= 0 {
		return plan
	}
	oldest := slices.SortedFunc(slices.Values(old), byAge)
	size := func(rs *appsv1.ReplicaSet) int32 {
		if n, ok := plan[rs.UID]; ok {
			return n
		}
		return *rs.Spec.Replicas
	}
	unhealthy := budget
	for _, rs := range oldest {
		n := min(unhealthy, *rs.Spec.Replicas-available(rs))
		if n > 0 {
			plan[rs.UID] = *rs.Spec.Replicas - n
			unhealthy -= n
		}
	}
	healthy := -minAvailable
	for _, rs := range all {
		healthy += available(rs)
	}
	for _, rs := range oldest {
		if n := min(healthy, size(rs)); n > 0 {
			plan[rs.UID] = size(rs) - n
			healthy -= n
		}
	}
	return plan
}

// available is how many pods of a set are available and stay.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

// recorded reads one of the size annotations of a set; false when it has none.
func recorded(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

// scaling says that the deployment's size was changed since its active sets were last sized.
func scaling(d *appsv1.Deployment, all []*appsv1.ReplicaSet) bool {
	for _, rs := range all {
		if *rs.Spec.Replicas == 0 {
			continue
		}
		if desired, ok := recorded(rs, desiredAnnotation); ok && desired != *d.Spec.Replicas {
			return true
		}
	}
	return false
}

func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	desired, ok := recorded(rs, desiredAnnotation)
	return ok && *rs.Spec.Replicas == *d.Spec.Replicas && desired == *d.Spec.Replicas && rs.Status.AvailableReplicas == *d.Spec.Replicas
}

// proportionalPlan says what sizes the sets get after the deployment's size changed: with one active set all goes there; a saturated
// new set empties the old ones; in the middle of a rollout every active set grows or shrinks by its share, so that the risk keeps its proportion.
func proportionalPlan(d *appsv1.Deployment, all []*appsv1.ReplicaSet, newSet *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) map[types.UID]int32 {
	plan := map[types.UID]int32{}
	replicas := *d.Spec.Replicas
	var active []*appsv1.ReplicaSet
	for _, rs := range all {
		if *rs.Spec.Replicas > 0 {
			active = append(active, rs)
		}
	}
	switch {
	case len(active) == 1:
		plan[active[0].UID] = replicas
		return plan
	case len(active) == 0:
		if newSet == nil && len(old) > 0 { // a paused one whose template has changed since: the newest there is
			newSet = slices.MaxFunc(old, byAge)
		}
		if newSet != nil {
			plan[newSet.UID] = replicas
		}
		return plan
	case newSet != nil && saturated(d, newSet):
		for _, rs := range old {
			if *rs.Spec.Replicas > 0 {
				plan[rs.UID] = 0
			}
		}
		return plan
	case d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType:
		return plan
	}
	allowed := int32(0)
	if replicas > 0 {
		allowed = replicas + maxSurge(d)
	}
	toAdd := allowed - specified(active)
	// The largest set takes what rounding leaves; among equals the newer one when growing, the older one when shrinking.
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	added := int32(0)
	for _, rs := range active {
		plan[rs.UID] = *rs.Spec.Replicas
		if toAdd == 0 {
			continue
		}
		share := proportion(d, rs, toAdd, added)
		plan[rs.UID] += share
		added += share
	}
	plan[active[0].UID] = max(0, plan[active[0].UID]+toAdd-added)
	return plan
}

// proportion is the part of toAdd that falls to rs, bounded by what is left after added.
func proportion(d *appsv1.Deployment, rs *appsv1.ReplicaSet, toAdd, added int32) int32 {
	left := toAdd - added
	if left == 0 {
		return 0
	}
	share := -*rs.Spec.Replicas
	if *d.Spec.Replicas > 0 {
		before, ok := recorded(rs, maxAnnotation)
		if !ok || before <= 0 {
			before = d.Status.Replicas // somebody took it off; this is near to what it said
		}
		if before == 0 {
			return 0
		}
		share += int32(math.Round(float64(*rs.Spec.Replicas) * float64(*d.Spec.Replicas+maxSurge(d)) / float64(before)))
	}
	if toAdd > 0 {
		return min(share, left)
	}
	return max(share, left)
}
