package expression_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
)

func sample() expression.Input {
	return expression.Input{
		Object:    &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"a": "b"}}, Data: map[string]string{"k": "v"}},
		Params:    &unstructured.Unstructured{Object: map[string]any{"most": int64(3)}},
		Namespace: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}},
		User:      &user.DefaultInfo{Name: "u"},
	}
}

func TestCompileAndEvaluate(t *testing.T) {
	full := expression.Sees{Params: true}
	for _, tt := range []struct {
		name, text string
		sees       expression.Sees
		returns    []*cel.Type
		compile    string // error
		evaluate   string // error
		want       any
	}{
		{name: "a value", text: "object.data.k + object.metadata.labels['a']", want: "vb"},
		{name: "parameters", text: "params.most + 1", sees: full, want: int64(4)},
		{name: "no parameters", text: "params.most", compile: "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'"},
		{name: "no authorizer", text: "authorizer == null", compile: "undeclared reference to 'authorizer'"},
		{name: "no patches", text: "Object{}", compile: "undeclared reference to 'Object'"},
		{name: "another type", text: "1", returns: []*cel.Type{cel.BoolType}, compile: "must evaluate to bool but got int"},
		{name: "another of two types", text: "1", returns: []*cel.Type{cel.StringType, cel.NullType}, compile: "must evaluate to one of [string null_type] but got int"},
		{name: "no old object", text: "oldObject == null", want: true},
		{name: "the namespace", text: "namespaceObject.metadata.name", want: "n"},
		{name: "what the namespace does not show", text: "namespaceObject.metadata.managedFields", compile: "undefined field 'managedFields'"},
		{name: "a missing field", text: "object.data.nothing", evaluate: "expression 'object.data.nothing' resulted in error: no such key: nothing"},
		{name: "libraries", text: "quantity('1Gi').isGreaterThan(quantity('1Mi')) && isURL('https://a') && ip('10.0.0.1').family() == 4 && semver('1.2.3').major() == 1", want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := expression.Plain().Compile(tt.text, tt.sees, expression.Stored, tt.returns...)
			if tt.compile != "" {
				if c.Err == nil || !strings.Contains(c.Err.Error(), tt.compile) {
					t.Errorf("got %v", c.Err)
				}
				return
			}
			if c.Err != nil {
				t.Fatal(c.Err)
			}
			budget := expression.Budget
			r, err := sample().New(nil).Evaluate(t.Context(), &c, &budget)
			switch {
			case err != nil:
				t.Fatal(err)
			case tt.evaluate != "":
				if r.Err == nil || !strings.Contains(r.Err.Error(), tt.evaluate) {
					t.Errorf("got %v", r.Err)
				}
			case r.Err != nil || r.Value.Value() != tt.want:
				t.Errorf("got %v, %v", r.Value, r.Err)
			}
			if budget >= expression.Budget {
				t.Error("it cost nothing")
			}
		})
	}
}

// TestVariables are evaluated when they are used, once, and paid for by who uses them.
func TestVariables(t *testing.T) {
	c := expression.Composed()
	none := expression.Sees{}
	c.Variable("list", "["+strings.Repeat("1,", 200)+"1].map(x, x + 1)", none, expression.Stored)
	c.Variable("unused", "object.nothing.at.all", none, expression.Stored)
	use := c.Compile("variables.list.size() == 201", none, expression.Stored, cel.BoolType)
	plain := c.Compile("true", none, expression.Stored, cel.BoolType)
	a := sample().New(c.Variables())
	cost := func(e *expression.Compiled) int64 {
		budget := expression.Budget
		if r, err := a.Evaluate(t.Context(), e, &budget); err != nil || !r.True() {
			t.Fatalf("%v, %v", r, err)
		}
		return expression.Budget - budget
	}
	first, second, third := cost(&plain), cost(&use), cost(&use)
	if second < first+200 || third >= second {
		t.Errorf("costs %d, %d, %d", first, second, third)
	}
	short := int64(50)
	if _, err := sample().New(c.Variables()).Evaluate(t.Context(), &use, &short); !expression.OutOfBudget(err) {
		t.Errorf("got %v", err)
	}
	if other := expression.Composed().Compile("variables.list", none, expression.Stored); other.Err == nil {
		t.Error("one policy sees another's variables")
	}
}

type allow struct{}

func (allow) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == "get" && a.GetUser().GetName() == "u" {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestConditions(t *testing.T) {
	in := sample()
	in.Authorizer = allow{}
	for _, tt := range []struct {
		texts []string
		want  bool
		err   string
	}{
		{[]string{"true", "object.metadata.name == 'x'"}, true, ""},
		{[]string{"true", "false"}, false, ""},
		{[]string{"object.data.nothing == ''", "false"}, false, ""},
		{[]string{"object.data.nothing == ''", "true"}, false, "no such key: nothing"},
		{[]string{"authorizer.path('/x').check('get').allowed()", "!authorizer.path('/x').check('post').allowed()"}, true, ""},
		{[]string{"(", "true"}, false, "compilation error: compilation failed"},
	} {
		var list []admissionregistrationv1.MatchCondition
		for _, text := range tt.texts {
			list = append(list, admissionregistrationv1.MatchCondition{Expression: text})
		}
		got, err := expression.Plain().Conditions(list, false, expression.Stored).Match(t.Context(), in.New(nil))
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %v, %v", tt.texts, got, err)
		}
	}
}

// FuzzCompile feeds hostile sources: they compile or they do not, and what compiles ends within its budget.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"true", "object.x", "(", "[1].map(x, [x].map(y, y))", "'\\u00zz'", "\"a\".matches(\"(\")", "Object{a: 1}", "[JSONPatch{op: 'add'}]", strings.Repeat("(", 300), "a.b.c.d", "1/0", "-9223372036854775808 * -1"} {
		f.Add(s)
	}
	sees := expression.Sees{Params: true, Authorizer: true, Patch: true}
	f.Fuzz(func(t *testing.T, text string) {
		c := expression.Plain().Compile(text, sees, expression.Stored)
		budget := expression.Budget
		r, err := sample().New(nil).Evaluate(t.Context(), &c, &budget)
		if err == nil && r.Err == nil && r.Value == nil {
			t.Fatalf("%q gave neither a value nor an error", text)
		}
		if err == nil && budget < 0 {
			t.Fatalf("%q cost more than its budget", text)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	c := expression.Composed()
	v := c.Compile("object.metadata.name.startsWith('x') && object.data.k == 'v'", expression.Sees{}, expression.Stored, cel.BoolType)
	in := sample()
	b.ReportAllocs()
	for b.Loop() {
		budget := expression.Budget
		if r, err := in.New(nil).Evaluate(context.Background(), &v, &budget); err != nil || !r.True() {
			b.Fatal(r, err)
		}
	}
}
