package match_test

import (
	"context"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/match"
)

type namespaces map[string]map[string]string

func (n namespaces) Namespace(_ context.Context, name string) (*corev1.Namespace, error) {
	l, ok := n[name]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name)
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}}, nil
}

// doors is a resource in several versions; nobody looks at its objects here.
type doors []admission.Door

func (d *doors) Doors(string) []admission.Door { return *d }
func (*doors) Show(o runtime.Object, _ schema.GroupVersionKind) (runtime.Object, error) {
	return o, nil
}
func (*doors) Read([]byte, schema.GroupVersionKind) (runtime.Object, error) { return nil, nil }
func (*doors) Types(schema.GroupVersionKind) managedfields.TypeConverter    { return nil }

func door(group, version string) admission.Door {
	gv := schema.GroupVersion{Group: group, Version: version}
	return admission.Door{Resource: gv.WithResource("things"), Kind: gv.WithKind("Thing")}
}

func rule(change func(*admissionregistrationv1.NamedRuleWithOperations)) admissionregistrationv1.NamedRuleWithOperations {
	r := admissionregistrationv1.NamedRuleWithOperations{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{"CREATE"},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{"a.b"}, APIVersions: []string{"v1"}, Resources: []string{"things"}},
	}}
	if change != nil {
		change(&r)
	}
	return r
}

func thing(change ...func(*admission.Attributes)) *admission.Attributes {
	d := door("a.b", "v1")
	a := &admission.Attributes{
		Operation: admission.Create, Resource: d.Resource, Kind: d.Kind, Namespace: "n", Name: "x",
		Object:   &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}}},
		Versions: &doors{d, door("a.b", "v2"), door("old.b", "v1")},
	}
	for _, c := range change {
		c(a)
	}
	return a
}

func TestResources(t *testing.T) {
	type named = admissionregistrationv1.NamedRuleWithOperations
	everything := &metav1.LabelSelector{}
	for _, tt := range []struct {
		name   string
		m      *admissionregistrationv1.MatchResources
		write  func(*admission.Attributes)
		want   bool
		as     schema.GroupVersionKind
		hasErr bool
	}{
		{name: "nothing said", want: true},
		{name: "a rule", m: &admissionregistrationv1.MatchResources{ResourceRules: []named{rule(nil)}}, want: true},
		{name: "another name", m: &admissionregistrationv1.MatchResources{ResourceRules: []named{rule(func(r *named) { r.ResourceNames = []string{"y"} })}}},
		{name: "the name", m: &admissionregistrationv1.MatchResources{ResourceRules: []named{rule(func(r *named) { r.ResourceNames = []string{"y", "x"} })}}, want: true},
		{name: "a name that is yet to come", m: &admissionregistrationv1.MatchResources{ResourceRules: []named{rule(func(r *named) { r.ResourceNames = []string{"x"} })}},
			write: func(a *admission.Attributes) { a.Name = "" }},
		{name: "left out", m: &admissionregistrationv1.MatchResources{ResourceRules: []named{rule(nil)}, ExcludeResourceRules: []named{rule(nil)}}},
		{name: "left out by another version", m: &admissionregistrationv1.MatchResources{MatchPolicy: new(admissionregistrationv1.Equivalent), ResourceRules: []named{rule(nil)},
			ExcludeResourceRules: []named{rule(func(r *named) { r.APIVersions = []string{"v2"} })}}},
		{name: "another version", m: &admissionregistrationv1.MatchResources{MatchPolicy: new(admissionregistrationv1.Equivalent), ResourceRules: []named{rule(func(r *named) { r.APIVersions = []string{"v2"} })}},
			want: true, as: door("a.b", "v2").Kind},
		{name: "another group", m: &admissionregistrationv1.MatchResources{MatchPolicy: new(admissionregistrationv1.Equivalent), ResourceRules: []named{rule(func(r *named) { r.APIGroups = []string{"old.b"} })}},
			want: true, as: door("old.b", "v1").Kind},
		{name: "another version, exactly", m: &admissionregistrationv1.MatchResources{MatchPolicy: new(admissionregistrationv1.Exact), ResourceRules: []named{rule(func(r *named) { r.APIVersions = []string{"v2"} })}}},
		{name: "its own version first", m: &admissionregistrationv1.MatchResources{MatchPolicy: new(admissionregistrationv1.Equivalent), ResourceRules: []named{rule(func(r *named) { r.APIVersions = []string{"v2"} }), rule(nil)}},
			want: true, as: door("a.b", "v1").Kind},
		{name: "in no namespace", m: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no": "one"}}},
			write: func(a *admission.Attributes) { a.Namespace = "" }, want: true},
		{name: "an unknown namespace", m: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no": "one"}}},
			write: func(a *admission.Attributes) { a.Namespace = "m" }, hasErr: true},
		{name: "an unknown namespace that matters not", m: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no": "one"}},
			ResourceRules: []named{rule(func(r *named) { r.Operations[0] = "DELETE" })}}, write: func(a *admission.Attributes) { a.Namespace = "m" }},
		{name: "a new namespace by its own labels", m: &admissionregistrationv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}}, want: true,
			write: func(a *admission.Attributes) {
				a.Resource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
				a.Object = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"team": "b"}}}
			}},
		{name: "a selector that cannot be", m: &admissionregistrationv1.MatchResources{ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}}, hasErr: true},
		{name: "no labels at all", m: &admissionregistrationv1.MatchResources{ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
			write: func(a *admission.Attributes) { a.Object = &corev1.PodExecOptions{} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.m != nil {
				if tt.m.NamespaceSelector == nil {
					tt.m.NamespaceSelector = everything
				}
				if tt.m.ObjectSelector == nil {
					tt.m.ObjectSelector = everything
				}
			}
			a := thing()
			if tt.write != nil {
				tt.write(a)
			}
			c := match.Resources(tt.m)
			d, got, err := c.Match(t.Context(), a, namespaces{"n": {"team": "a"}})
			if got != tt.want || (err != nil) != tt.hasErr || !tt.as.Empty() && d.Kind != tt.as {
				t.Errorf("got %v as %v, %v", got, d.Kind, err)
			}
			// What matches must be a candidate, and what may fail as well.
			set := match.NewSet([]*match.Criteria{c}, func(c *match.Criteria) *match.Criteria { return c })
			for range 2 {
				if n := len(set.Candidates(a)); (tt.want || tt.hasErr) && n != 1 {
					t.Errorf("%d candidates", n)
				}
			}
		})
	}
}

// TestCandidates: another kind of write is asked for anew, the same kind is not.
func TestCandidates(t *testing.T) {
	webhook := func(op admissionregistrationv1.OperationType) *match.Criteria {
		r := rule(func(r *admissionregistrationv1.NamedRuleWithOperations) { r.Operations[0] = op })
		return match.Webhook([]admissionregistrationv1.RuleWithOperations{r.RuleWithOperations}, nil, &metav1.LabelSelector{}, &metav1.LabelSelector{})
	}
	asked := 0
	set := match.NewSet([]string{"c", "u", "d", "none"}, func(name string) *match.Criteria {
		asked++
		switch name {
		case "c":
			return webhook("CREATE")
		case "u":
			return webhook("UPDATE")
		case "d":
			return webhook("*")
		}
		return match.Webhook(nil, nil, &metav1.LabelSelector{}, &metav1.LabelSelector{})
	})
	same := thing().Versions
	write := func(op admission.Operation) *admission.Attributes {
		return thing(func(a *admission.Attributes) { a.Operation, a.Versions = op, same })
	}
	if got := set.Candidates(write(admission.Create)); len(got) != 2 || got[0] != "c" || got[1] != "d" {
		t.Errorf("got %v", got)
	}
	if got := set.Candidates(write(admission.Update)); len(got) != 2 || got[0] != "u" {
		t.Errorf("got %v", got)
	}
	before := asked
	if set.Candidates(write(admission.Create)); asked != before {
		t.Error("asked again for the same kind of write")
	}
	var none *match.Set[string]
	if got := none.Candidates(write(admission.Create)); got != nil {
		t.Errorf("got %v of none", got)
	}
}

func BenchmarkCandidates(b *testing.B) {
	var all []*match.Criteria
	for range 50 {
		r := rule(func(r *admissionregistrationv1.NamedRuleWithOperations) { r.APIGroups = []string{"other"} })
		all = append(all, match.Webhook([]admissionregistrationv1.RuleWithOperations{r.RuleWithOperations}, nil, &metav1.LabelSelector{}, &metav1.LabelSelector{}))
	}
	set := match.NewSet(all, func(c *match.Criteria) *match.Criteria { return c })
	a := thing()
	b.ReportAllocs()
	for b.Loop() {
		if len(set.Candidates(a)) != 0 {
			b.Fatal("a match")
		}
	}
}
