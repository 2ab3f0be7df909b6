package resource

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// deviceEnvironment is what an expression that selects devices sees (KEP-4381): "device", with the name of its driver, its
// attributes and capacities by domain and name, and whether it can be shared. It is made when the first expression needs it.
var deviceEnvironment = sync.OnceValues(func() (*environment.EnvSet, error) {
	must := func(name string, t *apiservercel.DeclType) *apiservercel.DeclField {
		return apiservercel.NewDeclField(name, t, true, nil, nil)
	}
	const most = resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice
	byName := func(t *apiservercel.DeclType) *apiservercel.DeclType {
		return apiservercel.NewMapType(apiservercel.StringType, apiservercel.NewMapType(apiservercel.StringType, t, most), most)
	}
	device := apiservercel.NewObjectType("kubernetes.DRADevice", map[string]*apiservercel.DeclField{
		"driver":                   must("driver", apiservercel.StringType),
		"attributes":               must("attributes", byName(apiservercel.AnyType)),
		"capacity":                 must("capacity", byName(apiservercel.QuantityDeclType)),
		"allowMultipleAllocations": must("allowMultipleAllocations", apiservercel.BoolType),
	})
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 31),
		EnvOptions: []cel.EnvOption{
			cel.Variable("device", device.CelType()),
			ext.Bindings(ext.BindingsVersion(0)),
		},
		DeclTypes: []*apiservercel.DeclType{device},
	})
})

// validateExpression wants an expression over "device" that compiles, says yes or no, and cannot cost too much. What was stored
// before may use all that this release knows, what is new only what the previous one knew too.
func validateExpression(text string, mode environment.Type, p *field.Path) field.ErrorList {
	if len(text) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(p, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	set, err := deviceEnvironment()
	if err != nil {
		return field.ErrorList{field.InternalError(p, err)}
	}
	env, err := set.Env(mode)
	if err != nil {
		return field.ErrorList{field.InternalError(p, err)}
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return field.ErrorList{field.Invalid(p, text, "compilation failed: "+issues.String())}
	}
	if t := ast.OutputType(); t != cel.BoolType && t != cel.AnyType {
		return field.ErrorList{field.Invalid(p, text, fmt.Sprintf("must evaluate to %v or the unknown type, not %v", cel.BoolType, t))}
	}
	cost, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: deviceSizes{}})
	if err != nil {
		return field.ErrorList{field.InternalError(p, fmt.Errorf("cost estimation failed: %w", err))}
	}
	if cost.Max > resourcev1.CELSelectorExpressionMaxCost {
		return field.ErrorList{field.Forbidden(p, "too complex, exceeds cost limit")}
	}
	return nil
}
