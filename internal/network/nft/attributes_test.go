package nft

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttributes(t *testing.T) {
	t.Parallel()
	var b []byte
	for kind, value := range []string{"", "a", "four", "longer"} {
		var at int
		b, at = Begin(b, uint16(kind+1)|unix.NLA_F_NESTED)
		b = End(append(b, value...), at)
	}
	if len(b) != 4+8+8+12 {
		t.Errorf("%d bytes: % x", len(b), b)
	}
	for kind, value := range []string{"", "a", "four", "longer"} {
		if got := Find(b, uint16(kind+1)); got == nil || string(got) != value {
			t.Errorf("attribute %d is %q, want %q", kind+1, got, value)
		}
	}
	if got := Find(b, 9); got != nil {
		t.Errorf("what isn't there is %q", got)
	}
}

func FuzzFind(f *testing.F) {
	b, at := Begin(nil, 3)
	f.Add(End(append(b, "value"...), at), uint16(3))
	f.Add([]byte{3, 0, 1, 0}, uint16(1))
	f.Add([]byte{255, 255, 1, 0, 1}, uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, kind uint16) {
		if got := Find(data, kind); len(got) > 0 && !bytes.Contains(data, got) {
			t.Errorf("%x is not in %x", got, data)
		}
	})
}
