package scheduling_test

import (
	"testing"
	"time"

	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/scheduling"
)

func TestPriorityClass(t *testing.T) {
	apitest.Check(t, scheduling.Kinds(), "PriorityClass", []apitest.Case{
		{"highest", "metadata: {name: a}\nvalue: 1000000000", ""},
		{"higher", "metadata: {name: a}\nvalue: 1000000001", "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"},
		{"of the system", "metadata: {name: system-node-critical}\nvalue: 2000001000", ""},
		{"almost of the system", "metadata: {name: system-node-critical}\nvalue: 5", "error: value of system-node-critical PriorityClass must be 2000001000"},
		{"not of the system", "metadata: {name: system-mine}\nvalue: 5", "system-mine is not a known system priority class"},
		{"policy", "metadata: {name: a}\nvalue: 5\npreemptionPolicy: Sometimes", `preemptionPolicy: Unsupported value: "Sometimes": supported values: "PreemptLowerPriority", "Never"`},
	})
	c := apitest.Catalogue(t, scheduling.Kinds())
	k := apitest.Kind(t, c.Kinds(), "PriorityClass")
	old := apitest.Read(t, c, k, "metadata: {name: a}\nvalue: 5").(*schedulingv1.PriorityClass)
	if got := apitest.Row(k, old, time.Now()); got != "a|5|false|<unknown>|PreemptLowerPriority" {
		t.Error(got)
	}
	p := old.DeepCopy()
	p.Value, p.Description = 6, "new"
	if got := apitest.Text(k.ValidateUpdate(p, old)); got != "value: Forbidden: may not be changed in an update." {
		t.Error(got)
	}
}
