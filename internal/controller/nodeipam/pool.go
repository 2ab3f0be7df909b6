package nodeipam

import (
	"fmt"
	"math/big"
	"net/netip"
)

// maxBits bounds how many networks a range is cut into: 2^maxBits.
const maxBits = 16

// Range is a range of the cluster's and how large the part of a node is.
type Range struct {
	Prefix netip.Prefix
	// Bits is the length of the prefix of a node's part.
	Bits int
}

// Check says what is wrong with a range.
func (r Range) Check() error {
	switch {
	case !r.Prefix.IsValid() || r.Prefix.Masked() != r.Prefix:
		return fmt.Errorf("%v is no network", r.Prefix)
	case r.Bits < r.Prefix.Bits() || r.Bits > r.Prefix.Addr().BitLen()-2:
		return fmt.Errorf("networks of /%d cannot be cut out of %v", r.Bits, r.Prefix)
	case r.Bits-r.Prefix.Bits() > maxBits:
		return fmt.Errorf("networks of /%d are too many in %v: at most %d", r.Bits, r.Prefix, 1<<maxBits)
	}
	return nil
}

// pool hands out the networks of one range. It is a function of its history.
type pool struct {
	Range
	count int         // how many networks there are
	used  map[int]int // how many owners a network has; more than one only if people gave it to two nodes
	next  int         // where the search begins: what came back rests
	tries int         // how many networks the last search looked at
}

func newPool(r Range) *pool {
	return &pool{Range: r, count: 1 << (r.Bits - r.Prefix.Bits()), used: map[int]int{}}
}

// network is the i-th of the range.
func (p *pool) network(i int) netip.Prefix {
	base := new(big.Int).SetBytes(p.Prefix.Addr().AsSlice())
	base.Add(base, new(big.Int).Lsh(big.NewInt(int64(i)), uint(p.Prefix.Addr().BitLen()-p.Bits)))
	a, _ := netip.AddrFromSlice(base.FillBytes(make([]byte, p.Prefix.Addr().BitLen()/8)))
	return netip.PrefixFrom(a, p.Bits)
}

// span are the networks that a prefix touches, from first to last; ok is false if there are none.
func (p *pool) span(n netip.Prefix) (first, last int, ok bool) {
	if !n.Overlaps(p.Prefix) {
		return 0, 0, false
	}
	if n.Bits() <= p.Prefix.Bits() {
		return 0, p.count - 1, true
	}
	shift := uint(p.Prefix.Addr().BitLen() - p.Bits)
	offset := new(big.Int).Sub(new(big.Int).SetBytes(n.Masked().Addr().AsSlice()), new(big.Int).SetBytes(p.Prefix.Addr().AsSlice()))
	first = int(offset.Rsh(offset, shift).Int64())
	last = first
	if n.Bits() < p.Bits {
		last = first + 1<<(p.Bits-n.Bits()) - 1
	}
	return first, last, true
}

// occupy notes that somebody has a network.
func (p *pool) occupy(n netip.Prefix) {
	first, last, ok := p.span(n)
	for i := first; ok && i <= last; i++ {
		p.used[i]++
	}
}

// release notes that an owner of a network is gone.
func (p *pool) release(n netip.Prefix) {
	first, last, ok := p.span(n)
	for i := first; ok && i <= last; i++ {
		if p.used[i]--; p.used[i] <= 0 {
			delete(p.used, i)
		}
	}
}

// take finds a free network and occupies it.
func (p *pool) take() (netip.Prefix, bool) {
	if len(p.used) >= p.count {
		return netip.Prefix{}, false
	}
	p.tries = 1
	for p.used[p.next%p.count] > 0 {
		p.next++
		p.tries++
	}
	i := p.next % p.count
	p.next = i + 1
	p.used[i]++
	return p.network(i), true
}
