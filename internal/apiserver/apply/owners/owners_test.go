package owners

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func entry(manager string, op metav1.ManagedFieldsOperationType, fields string) metav1.ManagedFieldsEntry {
	at := metav1.Unix(1700000000, 0)
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: op, APIVersion: "v1", FieldsType: "FieldsV1", Time: &at, FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestTree(t *testing.T) {
	var c Trees
	all := c.Of(metav1.NewFieldsV1(`{"f:a":{},"f:b":{".":{},"f:c":{}}}`))
	part := c.Of(metav1.NewFieldsV1(`{"f:b":{"f:c":{}}}`))
	if all == nil || part == nil || all.ID == part.ID || c.Of(metav1.NewFieldsV1(`{"f:b":{"f:c":{}}}`)) != part {
		t.Fatal("trees have no identity")
	}
	if !all.Owns([]string{"f:b", "f:c"}) || !all.Owns([]string{"f:b"}) || part.Owns([]string{"f:b"}) || all.Owns([]string{"f:x"}) {
		t.Error("what is owned")
	}
	if !all.Covers(part) || part.Covers(all) {
		t.Error("what covers what")
	}
	if c.Of(metav1.NewFieldsV1(`[`)) != nil {
		t.Error("nonsense was read")
	}
}

func TestOutcome(t *testing.T) {
	before := []metav1.ManagedFieldsEntry{entry("a", "Apply", `{"f:a":{}}`), entry("b", "Update", `{"f:b":{}}`)}
	made := Marked(before) // as the library hands them on: one with its time, one new
	now := metav1.Now()
	made[0].Time = &now
	if before[0].Time.Unix() != 1700000000 {
		t.Fatal("marking changed what was there")
	}
	var c Outcomes
	c.Put([]byte("x"), OutcomeOf(made))
	o, ok := c.Get([]byte("x"))
	if !ok || o == nil {
		t.Fatal("not remembered")
	}
	after := o.Of(before)
	if len(after) != 2 || after[0].Manager != "a" || time.Since(after[0].Time.Time) > time.Hour || !after[1].Time.Equal(before[1].Time) {
		t.Errorf("%v", after)
	}
	if _, ok := c.Get([]byte("y")); ok {
		t.Error("another outline is known")
	}
}

func TestCountable(t *testing.T) {
	one := entry("a", "Apply", `{}`)
	many := make([]metav1.ManagedFieldsEntry, maxCounted)
	for i := range many {
		many[i] = one
	}
	if !Countable(many[1:], "v1") || Countable(many, "v1") || Countable(many[:1], "v2") {
		t.Error("what can be counted")
	}
}

func TestKept(t *testing.T) {
	var c Trees
	before := []metav1.ManagedFieldsEntry{entry("a", "Apply", `{"f:a":{},"f:b":{}}`)}
	same := []metav1.ManagedFieldsEntry{entry("a", "Apply", `{"f:a":{},"f:b":{},"f:c":{}}`)}
	less := []metav1.ManagedFieldsEntry{entry("a", "Apply", `{"f:a":{}}`)}
	if !c.Kept(before, same, "a", "") || c.Kept(before, less, "a", "") || c.Kept(before, nil, "a", "") || !c.Kept(before, nil, "b", "") {
		t.Error("what is kept")
	}
}

func TestSame(t *testing.T) {
	list := func(change func(*metav1.ManagedFieldsEntry)) []metav1.ManagedFieldsEntry {
		e := entry("a", "Apply", `{"f:a":{}}`)
		if change != nil {
			change(&e)
		}
		return []metav1.ManagedFieldsEntry{entry("x", "Update", `{"f:x":{}}`), e}
	}
	one := list(nil)
	if !Same(one, one) || !Same(one, list(nil)) || !Same(nil, []metav1.ManagedFieldsEntry{}) || Same(one, one[:1]) || Same(nil, one) {
		t.Error("lists")
	}
	if !Same(one, list(func(e *metav1.ManagedFieldsEntry) { at := metav1.NewTime(e.Time.UTC()); e.Time = &at })) {
		t.Error("another zone is another time")
	}
	for i, change := range []func(*metav1.ManagedFieldsEntry){
		func(e *metav1.ManagedFieldsEntry) { e.Manager = "b" },
		func(e *metav1.ManagedFieldsEntry) { e.Operation = "Update" },
		func(e *metav1.ManagedFieldsEntry) { e.APIVersion = "v2" },
		func(e *metav1.ManagedFieldsEntry) { e.Time = nil },
		func(e *metav1.ManagedFieldsEntry) { at := metav1.NewTime(e.Time.Add(time.Second)); e.Time = &at },
		func(e *metav1.ManagedFieldsEntry) { e.FieldsType = "" },
		func(e *metav1.ManagedFieldsEntry) { e.FieldsV1 = nil },
		func(e *metav1.ManagedFieldsEntry) { e.FieldsV1 = metav1.NewFieldsV1(`{"f:b":{}}`) },
		func(e *metav1.ManagedFieldsEntry) { e.Subresource = "status" },
	} {
		if Same(one, list(change)) || Same(list(change), one) {
			t.Errorf("change %d is not seen", i)
		}
	}
}
