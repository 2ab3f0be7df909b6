package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	celmutation "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
	"github.com/celox/celox/internal/apiserver/admission"
)

// mutations is a compiled MutatingAdmissionPolicy.
type mutations struct {
	variables    []expression.Variable
	conditions   expression.Conditions
	list         []step
	reinvocation bool
}

// step is one mutation.
type step struct {
	patch      bool // a JSON patch; otherwise an apply configuration
	expression expression.Compiled
}

func compileMutations(s *admissionregistrationv1.MutatingAdmissionPolicySpec, mode expression.Mode) *mutations {
	params := s.ParamKind != nil
	sees := expression.Sees{Params: params, Authorizer: true}
	c := expression.Composed()
	for i := range s.Variables {
		c.Variable(s.Variables[i].Name, s.Variables[i].Expression, sees, mode)
	}
	m := &mutations{
		variables: c.Variables(), conditions: c.Conditions(s.MatchConditions, params, mode),
		reinvocation: s.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy,
	}
	sees.Patch = true
	for i := range s.Mutations {
		switch from := &s.Mutations[i]; {
		case from.PatchType == admissionregistrationv1.PatchTypeJSONPatch && from.JSONPatch != nil:
			m.list = append(m.list, step{true, c.Compile(from.JSONPatch.Expression, sees, mode, cel.ListType(types.NewObjectType(celmutation.JSONPatchTypeName)))})
		case from.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration && from.ApplyConfiguration != nil:
			m.list = append(m.list, step{false, c.Compile(from.ApplyConfiguration.Expression, sees, mode, types.NewObjectType(celmutation.ObjectTypeName))})
		}
	}
	return m
}

// apply evaluates the mutation and returns the JSON of the changed object, nil if it stays as it is.
func (s *step) apply(ctx context.Context, a *expression.Activation, obj runtime.Object, kind schema.GroupVersionKind, versions admission.Versions) ([]byte, error) {
	if s.expression.Err != nil {
		return nil, s.expression.Err
	}
	var types managedfields.TypeConverter
	if types = versions.Types(kind); types == nil && !s.patch {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("Resource kind %s not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.", kind))
	}
	budget := expression.Budget
	r, err := a.Evaluate(ctx, &s.expression, &budget)
	if err != nil {
		return nil, err
	}
	if r.Err != nil {
		return nil, r.Err
	}
	if !s.patch {
		return merged(r.Value, obj, kind, types)
	}
	patch, err := patchOf(r.Value)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("failed to create JSON patch: %w", err)
	}
	switch data, err = patch.Apply(data); {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		return nil, nil // a patch whose test fails is none
	case err != nil:
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	return data, nil
}

// patchOf turns a list of JSONPatch values into a patch.
func patchOf(v ref.Val) (jsonpatch.Patch, error) {
	list, ok := v.(traits.Lister)
	if !ok {
		return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	patch := jsonpatch.Patch{}
	for it := list.Iterator(); it.HasNext() == types.True; {
		native, err := it.Next().ConvertToNative(reflect.TypeFor[*celmutation.JSONPatchVal]())
		if err != nil {
			return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch: %w", err)
		}
		op, ok := native.(*celmutation.JSONPatchVal)
		if !ok {
			return nil, fmt.Errorf("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of %T", native)
		}
		o := jsonpatch.Operation{"op": quoted(op.Op), "path": quoted(op.Path)}
		if op.From != "" {
			o["from"] = quoted(op.From)
		}
		if op.Val != nil {
			if o["value"], err = jsonOf(op.Val); err != nil {
				return nil, err
			}
		}
		patch = append(patch, o)
	}
	return patch, nil
}

func quoted(s string) *json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil { // a string: never
		b = []byte(strconv.Quote(s))
	}
	return (*json.RawMessage)(&b)
}

func jsonOf(v ref.Val) (*json.RawMessage, error) {
	if o, ok := v.(*dynamic.ObjectVal); ok {
		if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	const failed = "JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w"
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	b, err := json.Marshal(native)
	if err != nil {
		return nil, fmt.Errorf(failed, err)
	}
	return (*json.RawMessage)(&b), nil
}

// merged is the JSON of an object with an apply configuration merged into it, as server-side apply merges but with no owner.
func merged(v ref.Val, obj runtime.Object, kind schema.GroupVersionKind, converter managedfields.TypeConverter) ([]byte, error) {
	o, ok := v.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", v.Type())
	}
	if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	fields, ok := o.Value().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid return type: %T", v)
	}
	config := &unstructured.Unstructured{Object: fields}
	config.SetGroupVersionKind(kind)
	out, err := merge(converter, obj, config)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: %w", err)
	}
	return json.Marshal(out)
}

func merge(converter managedfields.TypeConverter, obj runtime.Object, config *unstructured.Unstructured) (runtime.Object, error) {
	patch, err := converter.ObjectToTyped(config)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	// What is set as a whole would be replaced as a whole, which who changes a part of it hardly means.
	if found := atomics(nil, patch.Schema(), patch.TypeRef(), patch.AsValue()); len(found) > 0 {
		return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %v", strings.Join(found, ", "))
	}
	live, err := converter.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	out, err := live.Merge(patch)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	merged, err := converter.TypedToObject(out)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	return merged, nil
}

// atomics lists the paths in v of what is set as a whole.
func atomics(path fieldpath.Path, s *smdschema.Schema, t smdschema.TypeRef, v value.Value) []string {
	a, ok := s.Resolve(t)
	if !ok {
		return nil
	}
	var found []string
	switch {
	case v.IsMap() && a.Map != nil:
		if a.Map.ElementRelationship == smdschema.Atomic {
			found = append(found, path.String())
		}
		v.AsMap().Iterate(func(key string, child value.Value) bool {
			if f, ok := a.Map.FindField(key); ok {
				found = append(found, atomics(append(path, fieldpath.PathElement{FieldName: &key}), s, f.Type, child)...)
			}
			return true
		})
	case v.IsList() && a.List != nil:
		if a.List.ElementRelationship == smdschema.Atomic {
			found = append(found, path.String())
		}
		l := v.AsList()
		for i := range l.Length() {
			found = append(found, atomics(append(path, fieldpath.PathElement{Index: &i}), s, a.List.ElementType, l.At(i))...)
		}
	}
	return found
}
