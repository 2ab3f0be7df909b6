package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// attempts are how often a list is asked for anew. The kernel gives one out in a fraction of a millisecond: that all are interrupted doesn't happen.
const attempts = 100

// Whole calls list until it has not been interrupted. After many attempts it returns what the last one got, with netlink.ErrDumpInterrupted.
func Whole[T any](list func() ([]T, error)) (items []T, err error) {
	for range attempts {
		if items, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return items, err
}
