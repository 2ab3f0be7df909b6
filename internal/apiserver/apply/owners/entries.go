package owners

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Compare is the order of managed fields: by operation, by the second of their time, by manager.
func Compare(a, b metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	return cmp.Or(
		strings.Compare(string(a.Operation), string(b.Operation)),
		cmp.Compare(seconds(a.Time), seconds(b.Time)),
		strings.Compare(a.Manager, b.Manager),
		strings.Compare(a.APIVersion, b.APIVersion),
		strings.Compare(a.Subresource, b.Subresource),
	)
}

// Same says whether two lists of entries are equal.
func Same(a, b []metav1.ManagedFieldsEntry) bool {
	if len(a) != len(b) || len(a) == 0 || &a[0] == &b[0] {
		return len(a) == len(b)
	}
	for i := range a {
		if a, b := &a[i], &b[i]; a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion ||
			a.FieldsType != b.FieldsType || a.Subresource != b.Subresource || !a.Time.Equal(b.Time) || !sameFields(a.FieldsV1, b.FieldsV1) {
			return false
		}
	}
	return true
}

func sameFields(a, b *metav1.FieldsV1) bool {
	return a == b || a != nil && b != nil && bytes.Equal(a.GetRawBytes(), b.GetRawBytes())
}

// Countable says whether an outcome can be remembered for an object with these entries: all of one version, and not so many that their age
// counts.
func Countable(entries []metav1.ManagedFieldsEntry, version string) bool {
	if len(entries) >= maxCounted {
		return false
	}
	for i := range entries {
		if e := &entries[i]; e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return false
		}
	}
	return true
}

// AppendOutline begins an outline with who writes and who has written what. Not ok: it can't be told.
func (c *Trees) AppendOutline(b []byte, manager string, entries []metav1.ManagedFieldsEntry) (outline []byte, ok bool) {
	if b, ok = appendText(b, manager); !ok {
		return nil, false
	}
	for i := range entries {
		e := &entries[i]
		owned := c.Of(e.FieldsV1)
		if owned == nil {
			return nil, false
		}
		for _, text := range [...]string{e.Manager, string(e.Operation), e.Subresource} {
			if b, ok = appendText(b, text); !ok {
				return nil, false
			}
		}
		b = binary.BigEndian.AppendUint64(b, owned.ID)
	}
	return append(b, endOfEntries), true
}

const (
	startOfText  = 0xfa // any two bytes will do
	endOfEntries = 0xff
)

func appendText(b []byte, text string) ([]byte, bool) {
	if len(text) > 0xffff {
		return nil, false
	}
	b = append(b, startOfText, byte(len(text)>>8), byte(len(text)))
	return append(b, text...), true
}

// Kept says whether a manager that applies through a door still owns all that it has applied through it before: what it no longer wants is
// taken away only where it is there, which no outline says.
func (c *Trees) Kept(before, after []metav1.ManagedFieldsEntry, manager, subresource string) bool {
	own := func(entries []metav1.ManagedFieldsEntry) *metav1.FieldsV1 {
		for i := range entries {
			if e := &entries[i]; e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == subresource {
				return e.FieldsV1
			}
		}
		return nil
	}
	old := own(before)
	if old == nil {
		return true
	}
	now := own(after)
	if now == nil {
		return false
	}
	a, b := c.Of(old), c.Of(now)
	return a != nil && b != nil && b.Covers(a)
}
