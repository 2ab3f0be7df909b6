package flow

// Constants of the FNV-1a hash.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// hash continues an FNV-1a hash with a string and a separator.
func hash(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return (h ^ 0xff) * fnvPrime // no UTF-8 text has this byte
}

// mix spreads every bit of h over all others (the finalizer of MurmurHash3): names that differ in one letter must get unrelated hands.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// maxHand bounds the hand: the entropy that validation allows (60 bits) is that of 20 cards at most.
const maxHand = 20

// deal gives a flow its hand: size different numbers below deck, a function of h alone (shuffle sharding). Two flows share all their
// queues only with a tiny probability, so a heavy flow fills its own queues and others find one that it has not. It
// returns how many cards there are.
func deal(h uint64, deck, size int, hand *[maxHand]int) int {
	size = min(size, deck, maxHand)
	var sorted [maxHand]int
	for i := range size {
		left := uint64(deck - i)
		card := int(h % left)
		h /= left
		// card counts among those that are left: step over what was dealt before.
		at := 0
		for at < i && sorted[at] <= card {
			card++
			at++
		}
		copy(sorted[at+1:i+1], sorted[at:i])
		sorted[at] = card
		hand[i] = card
	}
	return size
}
