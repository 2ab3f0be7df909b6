package dynamicresources

import (
	"fmt"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// maxFilters bounds how many expressions are kept compiled; with more all are forgotten, and what they said of devices with them.
const maxFilters = 4096

// filters are the expressions that are in use, compiled.
type filters struct {
	env    *cel.Env
	err    error // why there is no environment
	byText map[string]*filter
	// empty is what a domain without attributes looks like.
	empty ref.Val
}

// filter is an expression that says of a device whether it is one of those that are wanted.
type filter struct {
	program cel.Program
	err     error // it doesn't compile
}

// verdict is what a filter says of a device.
type verdict struct {
	yes bool
	err error
}

// environmentOf is what an expression sees: "device", with its driver, and its attributes and capacities by domain and name.
func newEnvironment() (*cel.Env, error) {
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	field := func(name string, t *apiservercel.DeclType) *apiservercel.DeclField {
		return apiservercel.NewDeclField(name, t, true, nil, nil)
	}
	byDomain := func(t *apiservercel.DeclType) *apiservercel.DeclType {
		return apiservercel.NewMapType(apiservercel.StringType, apiservercel.NewMapType(apiservercel.StringType, t, most), most)
	}
	object := apiservercel.NewObjectType("kubernetes.DRADevice", map[string]*apiservercel.DeclField{
		"driver":                   field("driver", apiservercel.StringType),
		"attributes":               field("attributes", byDomain(apiservercel.AnyType)),
		"capacity":                 field("capacity", byDomain(apiservercel.QuantityDeclType)),
		"allowMultipleAllocations": field("allowMultipleAllocations", apiservercel.BoolType),
	})
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 31),
		EnvOptions:        []cel.EnvOption{cel.Variable("device", object.CelType()), ext.Bindings(ext.BindingsVersion(0))},
		DeclTypes:         []*apiservercel.DeclType{object},
	})
	if err != nil {
		return nil, err
	}
	return set.Env(environment.StoredExpressions)
}

// filter compiles an expression, unless that has been done.
func (v *Inventory) filter(text string) *filter {
	fs := &v.filters
	if f := fs.byText[text]; f != nil {
		return f
	}
	if fs.env == nil && fs.err == nil {
		if fs.env, fs.err = newEnvironment(); fs.err == nil {
			fs.empty = fs.env.CELTypeAdapter().NativeToValue(map[string]any{})
		}
	}
	if fs.byText == nil || len(fs.byText) >= maxFilters {
		fs.byText = map[string]*filter{}
		for _, p := range v.pools {
			for _, d := range p.devices {
				d.verdicts = nil
			}
		}
	}
	f := &filter{err: fs.err}
	if f.err == nil {
		f.program, f.err = compile(fs.env, text)
	}
	fs.byText[text] = f
	return f
}

func compile(env *cel.Env, text string) (cel.Program, error) {
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("compilation failed: %s", issues.String())
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.AnyType && t != cel.DynType {
		return nil, fmt.Errorf("must evaluate to %v or the unknown type, not %v", cel.BoolType, t)
	}
	return env.Program(ast, cel.CostLimit(resourcev1.CELSelectorExpressionMaxCost))
}

// ask evaluates a filter for a device, once.
func (v *Inventory) ask(f *filter, d *device) verdict {
	if got, ok := d.verdicts[f]; ok {
		return got
	}
	var got verdict
	got.yes, got.err = v.evaluate(f, d)
	if d.verdicts == nil {
		d.verdicts = map[*filter]verdict{}
	}
	d.verdicts[f] = got
	return got
}

func (v *Inventory) evaluate(f *filter, d *device) (bool, error) {
	if d.input == nil {
		input, err := v.filters.inputOf(d)
		if err != nil {
			return false, err
		}
		d.input = input
	}
	out, _, err := f.program.Eval(map[string]any{"device": d.input})
	if err != nil {
		return false, err
	}
	yes, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("expression returned %s instead of a bool", out.Type().TypeName())
	}
	return yes, nil
}

// inputOf is what an expression sees of a device.
func (fs *filters) inputOf(d *device) (map[string]any, error) {
	attributes, capacity := map[string]any{}, map[string]any{}
	put := func(to map[string]any, name resourcev1.QualifiedName, val any) {
		domain, id := split(name, d.id.Driver)
		inner, ok := to[domain].(map[string]any)
		if !ok {
			inner = map[string]any{}
			to[domain] = inner
		}
		inner[id] = val
	}
	for name, a := range d.Attributes {
		val, err := attributeValue(&a)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		put(attributes, name, val)
	}
	for name, c := range d.Capacity {
		put(capacity, name, apiservercel.Quantity{Quantity: &c.Value})
	}
	return map[string]any{
		"driver": d.id.Driver, "allowMultipleAllocations": d.shared(),
		"attributes": fs.domains(attributes), "capacity": fs.domains(capacity),
	}, nil
}

// split says which domain a name is of; one without a domain is of its driver's.
func split(name resourcev1.QualifiedName, driver string) (domain, id string) {
	if domain, id, ok := strings.Cut(string(name), "/"); ok {
		return domain, id
	}
	return driver, string(name)
}

func attributeValue(a *resourcev1.DeviceAttribute) (any, error) {
	switch {
	case a.IntValue != nil:
		return *a.IntValue, nil
	case a.BoolValue != nil:
		return *a.BoolValue, nil
	case a.StringValue != nil:
		return *a.StringValue, nil
	case a.VersionValue != nil:
		parsed, err := semver.Parse(*a.VersionValue)
		if err != nil {
			return nil, fmt.Errorf("parse semantic version: %w", err)
		}
		return apiservercel.Semver{Version: parsed}, nil
	}
	return nil, fmt.Errorf("unsupported attribute value")
}

// domains is a map in which domains that aren't there look empty.
type domains struct {
	traits.Mapper
	empty ref.Val
}

func (fs *filters) domains(m map[string]any) ref.Val {
	val := fs.env.CELTypeAdapter().NativeToValue(m)
	if mapper, ok := val.(traits.Mapper); ok {
		return domains{mapper, fs.empty}
	}
	return val
}

// Find implements traits.Mapper.
func (m domains) Find(key ref.Val) (ref.Val, bool) {
	if val, ok := m.Mapper.Find(key); ok {
		return val, true
	}
	return m.empty, true
}

// Get implements traits.Indexer.
func (m domains) Get(key ref.Val) ref.Val {
	val, _ := m.Find(key)
	return val
}
