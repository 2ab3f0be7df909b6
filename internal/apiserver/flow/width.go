package flow

import (
	"math"
	"time"
)

// How requests are weighed (KEP-1040, "Support for LIST requests" and "Support for WATCH and mutating requests").
const (
	// objectsPerSeat is how many objects of a list one seat is good for.
	objectsPerSeat = 100
	// watchersPerSeat is how many watchers that are told of a write one seat is good for, for eventTime. Fewer are not counted.
	watchersPerSeat = 10
	eventTime       = 5 * time.Millisecond
	// maxSeats is what one request takes at most.
	maxSeats = 10
)

// Work is what a request is expected to cost.
type Work struct {
	// Objects is how many objects a list or the beginning of a watch goes through.
	Objects int
	// Watchers is how many watchers a write has to be told.
	Watchers int
}

// width is how many seats a request takes, and how many it goes on to take, for how long, when it has been answered.
type width struct {
	seats, final int
	after        time.Duration
}

func (w *Work) width(most int) width {
	most = min(max(most, 1), maxSeats)
	out := width{seats: min(max(1, (w.Objects+objectsPerSeat-1)/objectsPerSeat), most)}
	if w.Watchers >= watchersPerSeat {
		final := (w.Watchers + watchersPerSeat - 1) / watchersPerSeat
		// The same work in a narrower form: a wide request would keep many seats empty until it can sit down.
		out.final = min(final, most)
		out.after = time.Duration(float64(eventTime) * float64(final) / float64(out.final))
	}
	return out
}

// widest is how many seats a request of a level may take: a part of the level, so that a few lists do not fill it.
func widest(nominal, handSize int) int {
	n := int(math.Ceil(float64(nominal) * 0.15))
	if handSize > 0 {
		n = min(n, nominal/handSize)
	}
	return max(1, n)
}
