package apply

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// scaleTypes are the types of a Scale, which the library's schema lacks because no Scale is stored.
func scaleTypes() []smdschema.TypeDef {
	scalar := func(s smdschema.Scalar) smdschema.TypeRef {
		return smdschema.TypeRef{Inlined: smdschema.Atom{Scalar: &s}}
	}
	named := func(name string) smdschema.TypeRef { return smdschema.TypeRef{NamedType: &name} }
	object := func(name string, fields ...smdschema.StructField) smdschema.TypeDef {
		return smdschema.TypeDef{Name: name, Atom: smdschema.Atom{Map: &smdschema.Map{Fields: fields}}}
	}
	const group = "io.k8s.api.autoscaling.v1."
	number, text, empty := scalar(smdschema.Numeric), scalar(smdschema.String), map[string]any{}
	return []smdschema.TypeDef{
		object(group+"Scale",
			smdschema.StructField{Name: "apiVersion", Type: text},
			smdschema.StructField{Name: "kind", Type: text},
			smdschema.StructField{Name: "metadata", Type: named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"), Default: empty},
			smdschema.StructField{Name: "spec", Type: named(group + "ScaleSpec"), Default: empty},
			smdschema.StructField{Name: "status", Type: named(group + "ScaleStatus"), Default: empty}),
		object(group+"ScaleSpec", smdschema.StructField{Name: "replicas", Type: number}),
		object(group+"ScaleStatus", smdschema.StructField{Name: "replicas", Type: number, Default: 0}, smdschema.StructField{Name: "selector", Type: text}),
	}
}

// scaleConverter stands where the merging library wants conversions; a Scale has one version.
type scaleConverter struct{}

func (scaleConverter) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	s := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, s); err != nil {
		return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", u.GroupVersionKind(), err)
	}
	return s, nil
}

func (scaleConverter) Convert(_, _, _ any) error {
	return fmt.Errorf("a Scale has one version")
}

func (scaleConverter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (scaleConverter) Default(runtime.Object) {}

func (scaleConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	s := &autoscalingv1.Scale{}
	s.SetGroupVersionKind(gvk)
	return s, nil
}
