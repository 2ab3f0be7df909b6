package expression

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/mutation"
)

// The names that expressions see.
const (
	objectName          = "object"
	oldObjectName       = "oldObject"
	paramsName          = "params"
	requestName         = "request"
	namespaceName       = "namespaceObject"
	authorizerName      = "authorizer"
	requestResourceName = "authorizer.requestResource"
	variablesName       = "variables"
)

// Sees says which of the optional names an expression may use.
type Sees struct {
	Params     bool // params
	Authorizer bool // authorizer and authorizer.requestResource
	Patch      bool // the types Object and JSONPatch, and jsonpatch.escapeKey
}

// Mode tells expressions that are written from those that are stored: new ones may only use what the previous release knows.
type Mode = environment.Type

// The modes.
const (
	New    Mode = environment.NewExpressions
	Stored Mode = environment.StoredExpressions
)

// always is the version since which what we declare ourselves is there.
func always() *version.Version { return version.MajorMinor(1, 0) }

func object(name string, fields ...*apiservercel.DeclField) *apiservercel.DeclType {
	m := make(map[string]*apiservercel.DeclField, len(fields))
	for _, f := range fields {
		m[f.Name] = f
	}
	return apiservercel.NewObjectType(name, m)
}

func must(name string, t *apiservercel.DeclType) *apiservercel.DeclField {
	return apiservercel.NewDeclField(name, t, true, nil, nil)
}

func may(name string, t *apiservercel.DeclType) *apiservercel.DeclField {
	return apiservercel.NewDeclField(name, t, false, nil, nil)
}

func listOf(t *apiservercel.DeclType) *apiservercel.DeclType { return apiservercel.NewListType(t, -1) }

func mapOf(t *apiservercel.DeclType) *apiservercel.DeclType {
	return apiservercel.NewMapType(apiservercel.StringType, t, -1)
}

// requestType is AdmissionRequest without its uid and without the objects, which have names of their own.
func requestType() *apiservercel.DeclType {
	s := apiservercel.StringType
	kind := object("kubernetes.GroupVersionKind", must("group", s), must("version", s), must("kind", s))
	resource := object("kubernetes.GroupVersionResource", must("group", s), must("version", s), must("resource", s))
	user := object("kubernetes.UserInfo", may("username", s), may("uid", s), may("groups", listOf(s)), may("extra", mapOf(listOf(s))))
	return object("kubernetes.AdmissionRequest",
		must("kind", kind), must("resource", resource), may("subResource", s),
		must("requestKind", kind), must("requestResource", resource), may("requestSubResource", s),
		must("name", s), may("namespace", s), must("operation", s), must("userInfo", user),
		may("dryRun", apiservercel.BoolType), may("options", apiservercel.DynType))
}

// namespaceType is Namespace without what is nobody's business (managed fields, owners).
func namespaceType() *apiservercel.DeclType {
	s, t := apiservercel.StringType, apiservercel.TimestampType
	return object("kubernetes.Namespace",
		must("metadata", object("kubernetes.NamespaceMetadata",
			must("name", s), must("generateName", s), must("namespace", s), must("labels", mapOf(s)), must("annotations", mapOf(s)), must("UID", s),
			must("creationTimestamp", t), must("deletionGracePeriodSeconds", apiservercel.IntType), must("deletionTimestamp", t),
			must("generation", apiservercel.IntType), must("resourceVersion", s), must("finalizers", listOf(s)))),
		must("spec", object("kubernetes.NamespaceSpec", must("finalizers", listOf(s)))),
		must("status", object("kubernetes.NamespaceStatus",
			must("conditions", listOf(object("kubernetes.NamespaceCondition",
				must("status", s), must("type", s), must("lastTransitionTime", t), must("message", s), must("reason", s)))),
			must("phase", s))))
}

// Types are the types of what is not known otherwise; nil is "anything".
type Types struct{ Object, Params *apiservercel.DeclType }

// extend declares the names in a base environment.
func extend(base *environment.EnvSet, sees Sees, types Types, options ...environment.VersionedOptions) (*environment.EnvSet, error) {
	namespace, request := namespaceType(), requestType()
	declared := []*apiservercel.DeclType{namespace, request}
	typeOf := func(t *apiservercel.DeclType) *cel.Type {
		if t == nil {
			return cel.DynType
		}
		declared = append(declared, t)
		return t.CelType()
	}
	ofObject := typeOf(types.Object)
	vars := []cel.EnvOption{
		cel.Variable(objectName, ofObject), cel.Variable(oldObjectName, ofObject),
		cel.Variable(namespaceName, namespace.CelType()), cel.Variable(requestName, request.CelType()),
	}
	if sees.Params {
		vars = append(vars, cel.Variable(paramsName, typeOf(types.Params)))
	}
	if sees.Authorizer {
		vars = append(vars, cel.Variable(authorizerName, library.AuthorizerType), cel.Variable(requestResourceName, library.ResourceCheckType))
	}
	set, err := base.Extend(append([]environment.VersionedOptions{
		{IntroducedVersion: always(), EnvOptions: vars, DeclTypes: declared}, environment.StrictCostOpt,
	}, options...)...)
	if err != nil || !sees.Patch {
		return set, err
	}
	return set.Extend(environment.VersionedOptions{IntroducedVersion: always(), EnvOptions: []cel.EnvOption{
		common.ResolverEnvOption(&mutation.DynamicTypeResolver{}), environment.UnversionedLib(library.JSONPatch),
	}})
}

// shared are the environments that differ by Sees alone, each made once: without the name "variables", and with it but no variables.
type shared struct {
	mu       sync.Mutex
	plain    map[Sees]*environment.EnvSet // guarded by mu
	composed map[Sees]*environment.EnvSet // guarded by mu
}

// environments returns the process's shared environments: they depend on nothing but the program.
var environments = sync.OnceValue(func() *shared {
	return &shared{plain: map[Sees]*environment.EnvSet{}, composed: map[Sees]*environment.EnvSet{}}
})

func (s *shared) get(sees Sees, composed bool) (*environment.EnvSet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if composed {
		return s.getLocked(s.composed, sees, withVariables(newVariables()))
	}
	return s.getLocked(s.plain, sees)
}

func (s *shared) getLocked(m map[Sees]*environment.EnvSet, sees Sees, options ...environment.VersionedOptions) (*environment.EnvSet, error) {
	if set := m[sees]; set != nil {
		return set, nil
	}
	set, err := extend(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), sees, Types{}, options...)
	if err != nil {
		return nil, fmt.Errorf("CEL environment: %w", err)
	}
	m[sees] = set
	return set, nil
}

func newVariables() *apiservercel.DeclType {
	return apiservercel.NewObjectType("kubernetes.variables", map[string]*apiservercel.DeclField{})
}

// withVariables declares "variables" with a type whose fields may still be added.
func withVariables(t *apiservercel.DeclType) environment.VersionedOptions {
	return environment.VersionedOptions{
		IntroducedVersion: always(),
		EnvOptions:        []cel.EnvOption{cel.Variable(variablesName, t.CelType())},
		DeclTypes:         []*apiservercel.DeclType{t},
	}
}
