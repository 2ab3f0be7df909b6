package apitest

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// Fillers make values that the API's JSON forms can hold: what clients could send.
func Fillers(runtimeserializer.CodecFactory) []any {
	return []any{
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Int63n(1<<40), resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if c.Bool() {
				*v = intstr.FromInt32(c.Int31())
			} else {
				*v = intstr.FromString(c.String(0))
			}
		},
		func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(`{"a":{"b":[1,"x"]}}`) },
		func(f *metav1.FieldsV1, c randfill.Continue) { f.SetRawString(`{"f:a":{}}`) },
		func(m *metav1.TypeMeta, c randfill.Continue) {},
		func(m *metav1.MicroTime, c randfill.Continue) {
			m.Time = time.Unix(c.Int63n(1<<31), 1000*c.Int63n(1e6))
		},
		func(m *metav1.Time, c randfill.Continue) { m.Time = time.Unix(c.Int63n(1<<31), 0) },
		func(s *corev1.Secret, c randfill.Continue) {
			c.FillNoCustom(s)
			s.StringData = nil // only ever written to
		},
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = []byte(`{"a":1}`) },
		func(s *apiextensionsv1.JSONSchemaPropsOrBool, c randfill.Continue) { s.Allows = true },
		func(s *apiextensionsv1.JSONSchemaPropsOrArray, c randfill.Continue) {
			s.Schema = &apiextensionsv1.JSONSchemaProps{Type: "string"}
		},
		func(s *apiextensionsv1.JSONSchemaPropsOrStringArray, c randfill.Continue) { s.Property = []string{"a"} },
	}
}
