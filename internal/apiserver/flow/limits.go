package flow

import (
	"math"
	"time"
)

// capacity is the seats of a level, as derived from the shares of all levels (KEP-1040, "Dispatching").
type capacity struct {
	nominal, lower, upper int
}

// portion is what a level's object says about its seats. borrow is negative where there is no limit.
type portion struct {
	shares, lendable, borrow int
}

// divide gives every level its nominal seats and the bounds between which they may move.
func divide(total int, portions []portion) []capacity {
	sum := 0
	for _, p := range portions {
		sum += p.shares
	}
	out := make([]capacity, len(portions))
	for i, p := range portions {
		var c capacity
		if sum > 0 {
			c.nominal = int(math.Ceil(float64(total) * float64(p.shares) / float64(sum)))
		}
		c.lower = c.nominal - int(math.Round(float64(c.nominal)*float64(p.lendable)/100))
		c.upper = c.nominal + total
		if p.borrow >= 0 {
			c.upper = c.nominal + int(math.Round(float64(c.nominal)*float64(p.borrow)/100))
		}
		out[i] = c
	}
	return out
}

// smoothing is how much of the old smoothed demand stays after an adjustment period in which demand was lower.
const smoothing = 0.977

// demand integrates over time how many seats a level could use.
type demand struct {
	since, last time.Time
	current     int
	high        int
	sum, square float64 // of demand × seconds
	smoothed    float64
}

// change notes that the demand is n from now on.
func (d *demand) change(now time.Time, n int) {
	d.advance(now)
	d.current = n
	d.high = max(d.high, n)
}

func (d *demand) advance(now time.Time) {
	if dt := now.Sub(d.last).Seconds(); dt > 0 {
		c := float64(d.current)
		d.sum += c * dt
		d.square += c * c * dt
		d.last = now
	}
}

// period is what one adjustment period showed.
type period struct {
	high                       int
	average, deviation, smooth float64
}

// close ends a period and begins the next.
func (d *demand) close(now time.Time) period {
	d.advance(now)
	p := period{high: d.high}
	if t := d.last.Sub(d.since).Seconds(); t > 0 {
		p.average = d.sum / t
		p.deviation = math.Sqrt(max(0, d.square/t-p.average*p.average))
	} else {
		p.average = float64(d.current)
	}
	envelope := min(float64(p.high), p.average+p.deviation)
	d.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
	p.smooth = d.smoothed
	d.since, d.last, d.high, d.sum, d.square = now, now, d.current, 0, 0
	return p
}

// claim is a level's part in an adjustment.
type claim struct {
	capacity
	exempt bool
	high   int
	target float64
}

// lend moves seats to where they are used. It returns the seats of each level and the fraction of its target that each got whose
// bounds do not say otherwise. Exempt levels have no limit: what they use is not there for the others.
func lend(total int, claims []claim) (seats []int, fraction float64) {
	seats = make([]int, len(claims))
	left := float64(total)
	for i := range claims {
		if c := &claims[i]; c.exempt {
			seats[i] = max(c.lower, int(math.Ceil(c.target)))
			left -= float64(seats[i])
		}
	}
	// least is what a level keeps: what it may not lend, and of its own what it lately used.
	floor := func(c *claim) float64 { return float64(max(c.lower, min(c.nominal, c.high))) }
	sumLeast, sumUpper := 0.0, 0.0
	for i := range claims {
		if c := &claims[i]; !c.exempt {
			sumLeast += floor(c)
			sumUpper += float64(c.upper)
		}
	}
	least := floor
	if sumLeast > left {
		// Rounding, or the exempt, left less than that: nobody gets more than it may not be denied.
		least = func(c *claim) float64 { return float64(c.lower) }
	}
	give := func(c *claim, f float64) float64 {
		return min(float64(c.upper), max(least(c), f*max(c.target, least(c), 1)))
	}
	all := func(f float64) (sum float64) {
		for i := range claims {
			if c := &claims[i]; !c.exempt {
				sum += give(c, f)
			}
		}
		return sum
	}
	// all is continuous and does not fall with f: look for where it is what is left.
	low, high := 0.0, 1.0
	for all(high) < left && high < 1e9 && sumUpper > left {
		high *= 2
	}
	if sumUpper <= left {
		low, high = 1e9, 1e9
	}
	for range 60 {
		if mid := (low + high) / 2; all(mid) > left {
			high = mid
		} else {
			low = mid
		}
	}
	for i := range claims {
		if c := &claims[i]; !c.exempt {
			seats[i] = max(1, int(math.Round(give(c, low))))
		}
	}
	return seats, low
}
