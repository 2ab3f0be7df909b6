package custom

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	kjson "sigs.k8s.io/json"
)

// Version is one version of a custom resource.
type Version struct {
	def  *Definition
	spec *apiextensionsv1.CustomResourceDefinitionVersion
	gvk  schema.GroupVersionKind

	schemaOnce sync.Once
	structural *structuralschema.Structural // set by schemaOnce; nil without a schema
	schemaErr  error                        // set by schemaOnce

	surelyOnce sync.Once
	surely     surely // set by surelyOnce

	laxOnce sync.Once
	isLax   bool // set by laxOnce

	checkOnce sync.Once
	checks    validators // set by checkOnce
	checkErr  error      // set by checkOnce

	rulesOnce sync.Once
	rules     *cel.Validator // set by rulesOnce; nil without rules
}

// Kind returns the group, version and kind of the version's objects.
func (v *Version) Kind() schema.GroupVersionKind { return v.gvk }

// Name returns the version's name.
func (v *Version) Name() string { return v.spec.Name }

// hasStatus says whether the status has a door of its own.
func (v *Version) hasStatus() bool {
	return v.spec.Subresources != nil && v.spec.Subresources.Status != nil
}

// Scale returns where objects keep what their Scale shows, nil if they have none.
func (v *Version) Scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.spec.Subresources == nil {
		return nil
	}
	return v.spec.Subresources.Scale
}

func (v *Version) preserves() bool { return v.def.crd.Spec.PreserveUnknownFields }

// schema compiles the structural schema; nil if the version has none.
func (v *Version) schema() (*structuralschema.Structural, error) {
	v.schemaOnce.Do(func() {
		if v.spec.Schema == nil || v.spec.Schema.OpenAPIV3Schema == nil {
			return
		}
		internal, err := v.internal()
		if err != nil {
			v.schemaErr = err
			return
		}
		s, err := structuralschema.NewStructural(internal)
		if err != nil && !v.preserves() {
			v.schemaErr = errNoSchema
			return
		}
		if err == nil && !v.preserves() {
			s = s.DeepCopy() // it shares defaults with the definition
			if err := defaulting.PruneDefaults(s); err != nil {
				v.schemaErr = errNoSchema
				return
			}
		}
		v.structural = s
	})
	return v.structural, v.schemaErr
}

// internal is the schema in the form that the library takes, made anew each time; nil if the version has none.
func (v *Version) internal() (*apiextensions.JSONSchemaProps, error) {
	if v.spec.Schema == nil {
		return nil, nil
	}
	out := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.spec.Schema, out, nil); err != nil {
		return nil, fmt.Errorf("failed converting CRD validation to internal version: %w", err)
	}
	return out.OpenAPIV3Schema, nil
}

// validators are the library's.
type validators struct {
	whole  validation.SchemaValidator
	status validation.SchemaValidator // nil without a schema of the status
}

// validators compiles the validators of whole objects and of their status. Most objects can do without: they are surely valid.
func (v *Version) validators() (*validators, error) {
	v.checkOnce.Do(func() {
		var internal *apiextensions.JSONSchemaProps
		if internal, v.checkErr = v.internal(); v.checkErr != nil {
			return
		}
		if v.checks.whole, _, v.checkErr = validation.NewSchemaValidator(internal); v.checkErr != nil {
			return
		}
		if !v.hasStatus() || internal == nil {
			return
		}
		if s, ok := internal.Properties["status"]; ok {
			v.checks.status, _, v.checkErr = validation.NewSchemaValidator(&s)
		}
	})
	return &v.checks, v.checkErr
}

// ruleValidator compiles the CEL rules; nil if there are none.
func (v *Version) ruleValidator() *cel.Validator {
	v.rulesOnce.Do(func() {
		if s, err := v.schema(); err == nil && s != nil {
			v.rules = cel.NewValidator(s, true, celconfig.PerCallLimit)
		}
	})
	return v.rules
}

// coercion says how an object is made to fit its schema.
type coercion struct {
	drop  bool // metadata of embedded objects that can't be read is dropped
	track bool // the paths of unknown fields are collected
}

// coerce drops what the schema does not know, nulls that it does not allow, and bad metadata of embedded objects. It returns the
// paths of what was unknown, if they are wanted.
func (v *Version) coerce(o *Object, c coercion) (unknown []string, err error) {
	s, err := v.schema()
	if err != nil {
		return nil, err
	}
	if o.Fields == nil {
		o.Fields = map[string]any{}
	}
	if !v.preserves() {
		unknown = pruning.PruneWithOptions(o.Fields, s, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: c.track})
		defaulting.PruneNonNullableNullsWithoutDefaults(o.Fields, s)
	}
	ferr, more := objectmeta.CoerceWithOptions(nil, o.Fields, s, false, objectmeta.CoerceOptions{DropInvalidFields: c.drop, ReturnUnknownFieldPaths: c.track})
	if ferr != nil {
		return nil, ferr
	}
	return append(unknown, more...), nil
}

// Settle makes a valid object fit its schema as bodies and patches do when they are read: what server-side apply made has not been read. The object is the
// caller's, the values of its fields need not be.
func (v *Version) Settle(o *Object) error {
	s, err := v.schema()
	if err != nil || !v.lax(s) {
		return err
	}
	own, ok := copyValue(o.Fields).(map[string]any)
	if !ok || own == nil {
		return nil
	}
	next := &Object{TypeMeta: o.TypeMeta, Fields: own}
	if _, err := v.coerce(next, coercion{}); err != nil {
		return err
	}
	o.Fields = next.Fields
	return nil
}

// lax says whether server-side apply lets in what the schema does not: embedded objects have metadata of their own, and an object without declared properties is
// anything to it.
func (v *Version) lax(s *structuralschema.Structural) bool {
	v.laxOnce.Do(func() {
		if s == nil {
			return
		}
		(&structuralschema.Visitor{Structural: func(s *structuralschema.Structural) bool {
			undeclared := s.Type == "object" && len(s.Properties) == 0 && s.AdditionalProperties == nil && !s.XPreserveUnknownFields
			v.isLax = v.isLax || s.XEmbeddedResource || undeclared
			return false
		}}).Visit(s)
	})
	return v.isLax
}

// Default fills in the schema's defaults.
func (v *Version) Default(o *Object) error {
	s, err := v.schema()
	if err != nil {
		return err
	}
	if o.Fields == nil {
		o.Fields = map[string]any{}
	}
	defaulting.Default(o.Fields, s)
	return nil
}

func decodeStored(data []byte) (*Object, error) {
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("stored as null")
	}
	return fromContent(m, true)
}

// compareVersions orders versions as Kubernetes does: v2 > v1 > v2beta1 > v1beta1 > v1alpha1.
func compareVersions(a, b string) int {
	return apimachineryversion.CompareKubeAwareVersionStrings(a, b)
}
