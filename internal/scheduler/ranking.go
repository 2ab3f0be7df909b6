package scheduler

import "math/rand/v2"

// rejectedScore stands for the score of a node that doesn't fit: less than any.
const rejectedScore = -1

// maxRanked is the largest score that has a bucket. Weights that lead to larger ones make a search through all nodes necessary.
const maxRanked = 1 << 14

// ranking holds the scores of nodes so that one of the best is found at once: a bucket of nodes for each score.
type ranking struct {
	scores  []int64 // by node
	buckets [][]int32
	at      []int32 // where in its bucket a node is
	top     int     // no bucket above has nodes
	ranked  bool
}

func newRanking(most int64) ranking {
	r := ranking{ranked: most <= maxRanked}
	if r.ranked {
		r.buckets = make([][]int32, most+1)
	}
	return r
}

// resize makes room for n nodes.
func (r *ranking) resize(n int) {
	for len(r.scores) < n {
		r.scores = append(r.scores, rejectedScore)
		r.at = append(r.at, 0)
	}
}

func (r *ranking) set(node int, score int64) {
	old := r.scores[node]
	if old == score {
		return
	}
	r.scores[node] = score
	if !r.ranked {
		return
	}
	if old != rejectedScore {
		b := r.buckets[old]
		last := b[len(b)-1]
		b[r.at[node]] = last
		r.at[last] = r.at[node]
		r.buckets[old] = b[:len(b)-1]
	}
	if score != rejectedScore {
		r.at[node] = int32(len(r.buckets[score]))
		r.buckets[score] = append(r.buckets[score], int32(node))
		r.top = max(r.top, int(score))
	}
}

// best returns one of the nodes with the highest score; there must be one that fits.
func (r *ranking) best(random *rand.Rand) int {
	if !r.ranked {
		return best(r.scores, random)
	}
	for len(r.buckets[r.top]) == 0 {
		r.top--
	}
	b := r.buckets[r.top]
	if len(b) == 1 {
		return int(b[0])
	}
	return int(b[random.IntN(len(b))])
}

// best returns the index of one of the largest numbers.
func best(scores []int64, random *rand.Rand) int {
	top, ties := int64(rejectedScore), 0
	for _, v := range scores {
		if v > top {
			top, ties = v, 1
		} else if v == top {
			ties++
		}
	}
	pick := 0
	if ties > 1 {
		pick = random.IntN(ties)
	}
	for i, v := range scores {
		if v == top {
			if pick == 0 {
				return i
			}
			pick--
		}
	}
	return -1
}
