package flow

// maxRetryAfter is the longest time, in seconds, that a refused client is asked to stay away.
const maxRetryAfter = 32

// retryAfter finds out how long refused clients of a level should wait before they come again: one second, twice as long each time
// that many still are refused, and a second less when few are.
type retryAfter struct {
	seconds int64 // what is answered now
	since   int64 // when that was decided, unix seconds
	drops   int64 // refusals since then
}

// drop counts a refusal at a time in unix seconds.
func (r *retryAfter) drop(now int64) {
	if r.since == 0 {
		r.since = now
	}
	if passed := now - r.since; passed >= r.seconds {
		switch {
		case passed >= 2*r.seconds && r.drops < 2*r.seconds, passed > 2*maxRetryAfter:
			r.seconds = max(1, r.seconds-1)
			if passed > 2*maxRetryAfter {
				r.seconds = 1
			}
		case r.drops >= 3*r.seconds:
			r.seconds = min(2*r.seconds, maxRetryAfter)
		}
		r.since, r.drops = now, 0
	}
	r.drops++
}
