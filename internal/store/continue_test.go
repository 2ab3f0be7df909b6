package store

import (
	"strings"
	"testing"
)

func FuzzDecodeContinue(f *testing.F) {
	f.Add(encodeContinue(continueToken{Revision: 5, Start: "b\x00", Rest: 3}))
	f.Add(encodeContinue(continueToken{Revision: -1, Start: "../../secrets/x"}))
	f.Add("e30")
	f.Add("!!!")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := decodeContinue(s)
		if err != nil {
			return
		}
		if token.Start == "" || token.Revision == 0 || strings.HasPrefix(token.Start, "/") || strings.Contains("/"+token.Start, "/../") {
			t.Errorf("accepted %+v", token)
		}
		again, err := decodeContinue(encodeContinue(token))
		if err != nil || again != token {
			t.Errorf("%+v became %+v: %v", token, again, err)
		}
	})
}

func FuzzRing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 2, 0, 3})
	f.Fuzz(func(t *testing.T, ops []byte) {
		r := newRing()
		var want []int64
		rev, first := int64(1000), int64(1000)
		for _, op := range ops {
			switch op % 4 {
			case 0, 1:
				rev++
				r.push(&change{rev: rev})
				want = append(want, rev)
			case 2:
				if len(want) > 0 {
					r.drop()
					want = want[1:]
				}
			case 3:
				var older []*change
				var revs []int64
				for i := range int64(op/4) % 5 {
					older = append(older, &change{rev: first - 5 + i})
					revs = append(revs, first-5+i)
				}
				first -= 5
				r.prepend(older)
				want = append(revs, want...)
			}
		}
		if r.len() != len(want) {
			t.Fatalf("%d changes, want %d", r.len(), len(want))
		}
		for i, w := range want {
			if got := r.get(r.head + uint64(i)).rev; got != w {
				t.Fatalf("at %d: %d, want %d", i, got, w)
			}
			if got := r.after(w - 1); got > r.head+uint64(i) {
				t.Fatalf("after %d: position %d of %d", w-1, got-r.head, i)
			}
		}
	})
}
