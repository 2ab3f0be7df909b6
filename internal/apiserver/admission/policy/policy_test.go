package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/admissionregistration/expression"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/input"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
)

// collection is a list of objects that can change.
type collection struct {
	items   []*store.Item
	changed int64
}

func (c *collection) Changed() int64 { return c.changed }
func (c *collection) List(_ context.Context, o store.ListOptions) (store.List, error) {
	var l store.List
	for _, i := range c.items {
		if (o.Namespace == "" || i.Object.GetNamespace() == o.Namespace) && (o.Filter == nil || o.Filter(i.Object)) {
			l.Items = append(l.Items, i)
		}
	}
	return l, nil
}

func (c *collection) Get(_ context.Context, key string, _ store.GetOptions) (*store.Item, error) {
	for _, i := range c.items {
		if i.Key == key {
			return i, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{}, key)
}

func (c *collection) put(objs ...store.Object) {
	for _, o := range objs {
		c.changed++
		c.items = append(c.items, &store.Item{Key: strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"), Object: o, Revision: c.changed})
	}
	slices.SortFunc(c.items, func(a, b *store.Item) int { return strings.Compare(a.Key, b.Key) })
}

type namespaces struct{}

func (namespaces) Namespace(_ context.Context, name string) (*corev1.Namespace, error) {
	if name != "ns1" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name)
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": "a"}}}, nil
}

type roots struct{}

func (roots) Authorize(_ context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.User.GetName() == "root" {
		return request.Allow, "", nil
	}
	return request.NoOpinion, "", nil
}

// room is the surroundings of both plugins.
type room struct {
	cat                *api.Catalogue
	policies, bindings collection
	params             collection
	types              managedfields.TypeConverter
}

func newRoom(t testing.TB) *room {
	t.Helper()
	r := &room{}
	var err error
	if r.cat, err = catalogue.New(); err != nil {
		t.Fatal(err)
	}
	r.params.put(
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "limit", Namespace: "ns1", Labels: map[string]string{"is": "limit"}}, Data: map[string]string{"most": "3"}},
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "tight", Namespace: "ns1", Labels: map[string]string{"is": "limit"}}, Data: map[string]string{"most": "1"}})
	return r
}

func (r *room) config() Config {
	return Config{
		Policies: &r.policies, Bindings: &r.bindings, Namespaces: namespaces{}, Authorizer: roots{},
		Kinds: FirstOf{Built{Catalogue: r.cat, Objects: func(gr schema.GroupResource) (store.Reader, bool) {
			return reader{&r.params}, gr.Resource == "configmaps"
		}}},
	}
}

// reader makes a collection a store.Reader; nobody watches.
type reader struct{ *collection }

func (reader) Watch(context.Context, store.WatchOptions) (*store.Watcher, error) {
	return nil, errors.New("not here")
}

func read[T any](t testing.TB, r *room, text string) T {
	t.Helper()
	var obj T
	if err := yaml.UnmarshalStrict([]byte(text), &obj); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	o, ok := any(&obj).(api.Object)
	if !ok {
		t.Fatalf("%T is no object", obj)
	}
	for _, k := range r.cat.Kinds() {
		if k.Group == admissionregistrationv1.GroupName && fmt.Sprintf("%T", o) == fmt.Sprintf("*v1.%s", k.Kind) {
			k.Default(o)
		}
	}
	return obj
}

type said struct {
	warnings []string
	notes    map[string]string
}

func (r *room) write(obj runtime.Object, change ...func(*admission.Attributes)) (*admission.Attributes, *said) {
	s := &said{notes: map[string]string{}}
	a := &admission.Attributes{
		Operation: admission.Create, Namespace: "ns1", Name: "x", Object: obj, User: &user.DefaultInfo{Name: "root"}, Options: &metav1.CreateOptions{},
		Warn:     func(t string) { s.warnings = append(s.warnings, t) },
		Annotate: func(k, v string) { s.notes[k] = v },
		Kind:     appsv1.SchemeGroupVersion.WithKind("Deployment"), Resource: appsv1.SchemeGroupVersion.WithResource("deployments"),
	}
	obj.GetObjectKind().SetGroupVersionKind(a.Kind)
	k, _, _ := r.cat.ByKind(a.Kind)
	a.Versions = admission.NewBuilt(r.cat, k, func() managedfields.TypeConverter {
		if r.types == nil {
			r.types = applyconfigurations.NewTypeConverter(r.cat.Scheme())
		}
		return r.types
	})
	for _, c := range change {
		c(a)
	}
	return a, s
}

func deployment(replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns1", Labels: map[string]string{"app": "a"}},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "a"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}},
	}
}

const constraint = "matchConstraints: {resourceRules: [{operations: [CREATE, UPDATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}]}"

func (r *room) validating(t testing.TB, spec, binding string) *Validating {
	t.Helper()
	p := read[admissionregistrationv1.ValidatingAdmissionPolicy](t, r, "metadata: {name: p}\nspec: {"+constraint+", "+spec+"}")
	b := read[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, r, "metadata: {name: b}\nspec: {policyName: p, "+binding+"}")
	r.policies.put(&p)
	r.bindings.put(&b)
	return NewValidating(r.config())
}

func TestValidating(t *testing.T) {
	const deny = "validationActions: [Deny]"
	const by = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: "
	for _, tt := range []struct {
		name, policy, binding string
		write                 func(*admission.Attributes)
		want                  string
		code                  int32
		warning               string
		note                  string // key=part of the value
	}{
		{name: "holds", policy: "validations: [{expression: 'object.spec.replicas <= 3'}]", binding: deny},
		{name: "does not hold", policy: "validations: [{expression: 'object.spec.replicas <= 1'}]", binding: deny, want: by + "failed expression: object.spec.replicas <= 1", code: 422},
		{name: "says why", policy: "validations: [{expression: 'object.spec.replicas <= 1', message: ' too many ', reason: Forbidden}]", binding: deny, want: by + "too many", code: 403},
		{name: "says how many", policy: `validations: [{expression: 'object.spec.replicas <= 1', messageExpression: '"at most 1, not " + string(object.spec.replicas)', message: no}]`, binding: deny, want: by + "at most 1, not 2", code: 422},
		{name: "a message that cannot be said", policy: `validations: [{expression: 'false', messageExpression: 'object.nothing', message: never}]`, binding: deny, want: by + "never", code: 422},
		{name: "warns", policy: "validations: [{expression: 'false'}]", binding: "validationActions: [Warn, Audit]",
			warning: "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false", note: `validation.policy.admission.k8s.io/validation_failure="expressionIndex":0`},
		{name: "variables", policy: "variables: [{name: num, expression: object.spec.replicas}, {name: twice, expression: variables.num * 2}], validations: [{expression: variables.twice == 4}]", binding: deny},
		{name: "a variable that does not compile", policy: "variables: [{name: num, expression: nothing}], validations: [{expression: variables.num == 4}]", binding: deny, want: `composited variable "num" fails to compile`, code: 422},
		{name: "an expression that does not compile", policy: "validations: [{expression: nothing}]", binding: deny, want: "compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to 'nothing'", code: 422},
		{name: "an error", policy: "validations: [{expression: object.spec.nothing == 1}]", binding: deny, want: "expression 'object.spec.nothing == 1' resulted in error: no such key: nothing", code: 422},
		{name: "an error that does not count", policy: "failurePolicy: Ignore, validations: [{expression: object.spec.nothing == 1}]", binding: deny},
		{name: "too expensive", policy: "validations: [{expression: 'variables.l.all(a, variables.l.all(b, variables.l.all(c, variables.l.all(d, a + b + c + d >= 0))))'}], variables: [{name: l, expression: '[" + strings.Repeat("1,", 99) + "1]'}]",
			binding: deny, want: "actual cost limit exceeded", code: 422},
		{name: "a condition that does not hold", policy: "matchConditions: [{name: c, expression: 'false'}], validations: [{expression: 'false'}]", binding: deny},
		{name: "a condition that cannot be evaluated", policy: "matchConditions: [{name: c, expression: object.nothing == 1}], validations: [{expression: 'true'}]", binding: deny, want: "no such key: nothing", code: 422},
		{name: "a binding elsewhere", policy: "validations: [{expression: 'false'}]", binding: deny + ", matchResources: {namespaceSelector: {matchLabels: {team: b}}}"},
		{name: "a binding here", policy: "validations: [{expression: 'false'}]", binding: deny + ", matchResources: {namespaceSelector: {matchLabels: {team: a}}}", want: by, code: 422},
		{name: "left out", policy: "validations: [{expression: 'false'}]", binding: deny + ", matchResources: {excludeResourceRules: [{resourceNames: [x], operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*']}]}"},
		{name: "the namespace", policy: "validations: [{expression: \"namespaceObject.metadata.labels['team'] == 'a'\"}]", binding: deny},
		{name: "an unknown namespace", policy: "validations: [{expression: 'true'}]", binding: deny, write: func(a *admission.Attributes) { a.Namespace = "m" }, want: `namespaces "m" not found`, code: 404},
		{name: "the request", policy: "validations: [{expression: \"request.userInfo.username == 'root' && request.operation == 'CREATE' && request.resource.resource == 'deployments' && !request.dryRun && request.options.kind == 'CreateOptions'\"}]", binding: deny},
		{name: "who may", policy: "validations: [{expression: \"authorizer.group('apps').resource('deployments').namespace('ns1').check('create').allowed() && authorizer.requestResource.check('x').allowed()\"}]", binding: deny},
		{name: "who may not", policy: "validations: [{expression: \"authorizer.requestResource.check('x').allowed()\"}]", binding: deny, write: func(a *admission.Attributes) { a.User = &user.DefaultInfo{Name: "guest"} }, want: by, code: 422},
		{name: "an old object", policy: "validations: [{expression: oldObject == null}]", binding: deny},
		{name: "a note", policy: "auditAnnotations: [{key: k, valueExpression: \"'replicas ' + string(object.spec.replicas)\"}, {key: none, valueExpression: 'null'}]", binding: "validationActions: [Audit]", note: "p/k=replicas 2"},
		{name: "a parameter", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'object.spec.replicas <= int(params.data.most)'}]", binding: deny + ", paramRef: {name: limit, parameterNotFoundAction: Deny}"},
		{name: "a tight parameter", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'object.spec.replicas <= int(params.data.most)', messageExpression: 'string(params.metadata.name)'}]", binding: deny + ", paramRef: {name: tight, namespace: ns1, parameterNotFoundAction: Deny}", want: by + "tight", code: 422},
		{name: "all parameters", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'object.spec.replicas <= int(params.data.most)', messageExpression: 'string(params.metadata.name)'}]", binding: deny + ", paramRef: {selector: {matchLabels: {is: limit}}, parameterNotFoundAction: Deny}", want: by + "tight", code: 422},
		{name: "no parameter", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'false'}]", binding: deny + ", paramRef: {name: nothing, parameterNotFoundAction: Deny}", want: by + "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction", code: 422},
		{name: "no parameter, allowed", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: 'false'}]", binding: deny + ", paramRef: {name: nothing, parameterNotFoundAction: Allow}"},
		{name: "no reference", policy: "paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: params == null}]", binding: deny},
		{name: "an unknown kind", policy: "paramKind: {apiVersion: a.b/v1, kind: Nothing}, validations: [{expression: 'true'}]", binding: deny, want: "ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'a.b/v1, Kind=Nothing'", code: 422},
		{name: "another kind", policy: "validations: [{expression: 'false'}]", binding: deny, write: func(a *admission.Attributes) { a.Resource.Resource, a.Versions = "replicasets", nil }},
		{name: "another version", policy: "validations: [{expression: \"object.apiVersion == 'apps/v1'\"}]", binding: deny, write: func(a *admission.Attributes) {
			a.Kind.Version, a.Resource.Version = "v1beta2", "v1beta2"
		}},
		{name: "its own configuration", policy: "validations: [{expression: 'false'}]", binding: deny, write: func(a *admission.Attributes) {
			a.Resource = schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoom(t)
			p := r.validating(t, tt.policy, tt.binding)
			a, s := r.write(deployment(2))
			if tt.write != nil {
				tt.write(a)
			}
			err := p.Validate(t.Context(), a)
			if (err == nil) != (tt.want == "") {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				var status apierrors.APIStatus
				if !errors.As(err, &status) || !strings.Contains(err.Error(), tt.want) || status.Status().Code != tt.code {
					t.Errorf("got %#v", err)
				}
			}
			if tt.warning != "" && !slices.Equal(s.warnings, []string{tt.warning}) {
				t.Errorf("warnings %q", s.warnings)
			}
			if key, part, ok := strings.Cut(tt.note, "="); ok && !strings.Contains(s.notes[key], part) {
				t.Errorf("notes %q", s.notes)
			}
		})
	}
}

func TestMutating(t *testing.T) {
	const by = "policy 'p' with binding 'b' denied request: "
	apply := func(expression string) string {
		return "reinvocationPolicy: Never, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: '" + expression + "'}}]"
	}
	patch := func(expression string) string {
		return "reinvocationPolicy: Never, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '" + expression + "'}}]"
	}
	for _, tt := range []struct {
		name, policy string
		want         func(d *appsv1.Deployment)
		err          string
	}{
		{name: "apply", policy: apply(`Object{metadata: Object.metadata{labels: Object.metadata.labels{team: "a"}}, spec: Object.spec{replicas: object.spec.replicas + 1}}`),
			want: func(d *appsv1.Deployment) { d.Labels["team"] = "a"; d.Spec.Replicas = new(int32(3)) }},
		{name: "a list", policy: apply(`Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{initContainers: [Object.spec.template.spec.initContainers{name: "i", image: "j"}]}}}}`),
			want: func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "j"}}
			}},
		{name: "something atomic", policy: apply(`Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: Object.spec.selector.matchLabels{a: "b"}}}}`),
			err: by + "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"},
		{name: "patch", policy: patch(`[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}, JSONPatch{op: "replace", path: "/spec/replicas", value: 5}]`),
			want: func(d *appsv1.Deployment) { d.Labels["a/b"] = "c"; d.Spec.Replicas = new(int32(5)) }},
		{name: "an object in a patch", policy: patch(`[JSONPatch{op: "add", path: "/spec/template/spec/containers/-", value: Object.spec.template.spec.containers{name: "d", image: "e"}}]`),
			want: func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{Name: "d", Image: "e"})
			}},
		{name: "a copy in a patch", policy: patch(`[JSONPatch{op: "add", path: "/metadata/annotations", value: object.metadata.labels}]`),
			want: func(d *appsv1.Deployment) { d.Annotations = map[string]string{"app": "a"} }},
		{name: "a test that fails", policy: patch(`[JSONPatch{op: "test", path: "/spec/replicas", value: 7}, JSONPatch{op: "replace", path: "/spec/replicas", value: 5}]`)},
		{name: "a path that is not there", policy: patch(`[JSONPatch{op: "remove", path: "/nothing"}]`), err: by + "JSON Patch: "},
		{name: "an error", policy: patch(`[JSONPatch{op: "add", path: object.nothing, value: "c"}]`), err: by + "expression "},
		{name: "an error that does not count", policy: "failurePolicy: Ignore, " + patch(`[JSONPatch{op: "remove", path: "/nothing"}]`)},
		{name: "variables", policy: "variables: [{name: num, expression: object.spec.replicas * 2}], " + apply(`Object{spec: Object.spec{replicas: variables.num}}`),
			want: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) }},
		{name: "a condition", policy: "matchConditions: [{name: c, expression: 'false'}], " + apply(`Object{spec: Object.spec{replicas: 9}}`)},
		{name: "who may", policy: "matchConditions: [{name: c, expression: \"authorizer.requestResource.check('create').allowed()\"}], " + apply(`Object{spec: Object.spec{replicas: 9}}`),
			want: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(9)) }},
		{name: "one after the other", policy: `reinvocationPolicy: Never, mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: 3}}'}},
			{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: object.spec.replicas * 2}}'}}]`,
			want: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(6)) }},
		{name: "a wrong field", policy: apply(`Object{spec: Object.spec{replicas: "many"}}`), err: by + "error applying patch: failed to convert patch object to typed object: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoom(t)
			p := read[admissionregistrationv1.MutatingAdmissionPolicy](t, r, "metadata: {name: p}\nspec: {"+constraint+", "+tt.policy+"}")
			b := read[admissionregistrationv1.MutatingAdmissionPolicyBinding](t, r, "metadata: {name: b}\nspec: {policyName: p}")
			r.policies.put(&p)
			r.bindings.put(&b)
			kind, _, _ := r.cat.ByKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
			got, want := deployment(2), deployment(2)
			kind.Default(got)
			kind.Default(want)
			if tt.want != nil {
				tt.want(want)
				kind.Default(want)
			}
			a, _ := r.write(got)
			err := admission.Chain{NewMutating(r.config())}.Admit(t.Context(), a)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !apierrors.IsInvalid(err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			a.Object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			g, _ := yaml.Marshal(got)
			w, _ := yaml.Marshal(want)
			if string(g) != string(w) {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// TestOrder: policies work on what those before have made, by name, and take part again as they say.
func TestOrder(t *testing.T) {
	r := newRoom(t)
	for name, reinvocation := range map[string]string{"a": "IfNeeded", "b": "Never", "c": "Never"} {
		p := read[admissionregistrationv1.MutatingAdmissionPolicy](t, r, fmt.Sprintf(`{metadata: {name: %[1]s}, spec: {%[2]s, reinvocationPolicy: %[3]s, mutations: [{patchType: JSONPatch, jsonPatch: {expression:
			'[JSONPatch{op: "add", path: "/metadata/labels/app", value: object.metadata.labels.app + "%[1]s"}]'}}]}}`, name, constraint, reinvocation))
		b := read[admissionregistrationv1.MutatingAdmissionPolicyBinding](t, r, fmt.Sprintf("metadata: {name: %[1]s}\nspec: {policyName: %[1]s}", name))
		r.policies.put(&p)
		r.bindings.put(&b)
	}
	d := deployment(1)
	a, _ := r.write(d)
	if err := (admission.Chain{NewMutating(r.config())}).Admit(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(d.Labels, map[string]string{"app": "aabca"}) {
		t.Errorf("labels %v", d.Labels)
	}
}

// FuzzPolicies compiles and evaluates hostile sources.
func FuzzPolicies(f *testing.F) {
	for _, s := range []string{"true", "object.spec.replicas < 3", "[1,2].map(x, x * 2).size() == 2", "'a'.matches('(a+)+$')", "has(object.metadata.labels.a)", "(", "\"\\xff\"", "object[object]",
		"authorizer.requestResource.check('get').allowed()", "variables.v", "Object{}", "quantity('1Gi').isGreaterThan(quantity('1Mi'))", "url('https://a/b').getHost() == 'a'"} {
		f.Add(s, s)
	}
	r := newRoom(f)
	a, _ := r.write(deployment(2))
	f.Fuzz(func(t *testing.T, text, variable string) {
		spec := admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Variables:   []admissionregistrationv1.Variable{{Name: "v", Expression: variable}},
			Validations: []admissionregistrationv1.Validation{{Expression: text, MessageExpression: variable}},
		}
		v := compileValidation(&spec, "StoredExpressions")
		out := v.validate(t.Context(), inputOf(a), false)
		for _, d := range out.decisions {
			if d.deny && d.message == "" {
				t.Fatalf("refused without a word: %q", text)
			}
		}
	})
}

func inputOf(a *admission.Attributes) expression.Input {
	return input.Of(a, admission.Door{Resource: a.Resource, Kind: a.Kind}, a.Object, a.OldObject, roots{})
}
