package dump

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	other := errors.New("no")
	for name, x := range map[string]struct {
		answers []error
		calls   int
		err     error
	}{
		"at once":     {[]error{nil}, 1, nil},
		"interrupted": {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, nil}, 3, nil},
		"fails":       {[]error{netlink.ErrDumpInterrupted, other}, 2, other},
		"for ever":    {nil, attempts, netlink.ErrDumpInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, err := Whole(func() ([]int, error) {
				calls++
				if calls > len(x.answers) {
					return []int{calls}, netlink.ErrDumpInterrupted
				}
				return []int{calls}, x.answers[calls-1]
			})
			if calls != x.calls || !errors.Is(err, x.err) || len(got) != 1 || got[0] != calls {
				t.Errorf("%d calls, %v, %v; want %d, %v", calls, got, err, x.calls, x.err)
			}
		})
	}
}
