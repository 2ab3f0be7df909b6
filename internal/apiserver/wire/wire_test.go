package wire

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"
)

// samples are types that between them have every kind of field that the API has.
var samples = []any{
	&corev1.Pod{}, &corev1.ConfigMap{}, &corev1.Secret{}, &corev1.Service{}, &corev1.Node{}, &corev1.PersistentVolume{}, &corev1.Event{}, &corev1.Endpoints{}, //nolint:staticcheck // served all the same
	&corev1.Namespace{}, &corev1.ResourceQuota{}, &corev1.LimitRange{}, &corev1.List{}, &appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.ControllerRevision{}, &batchv1.CronJob{},
	&autoscalingv2.HorizontalPodAutoscaler{}, &networkingv1.Ingress{}, &networkingv1.NetworkPolicy{}, &policyv1.PodDisruptionBudget{}, &storagev1.CSINode{}, &resourcev1.ResourceSlice{},
	&resourcev1.ResourceClaim{}, &admissionv1.ValidatingWebhookConfiguration{}, &metav1.Status{}, &metav1.PartialObjectMetadata{}, &metav1.WatchEvent{},
}

var words = []string{"", "a", "name", "<b>&", "\u2028\u2029", "tab\t\"quote\" \\ back", "Grüße", "\x00\x1f\b\f\n\r", "bad \xff utf8", "日本", "😀", strings.Repeat("x", 300)}

// fill makes up a value.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	if depth > 6 || r.IntN(4) == 0 {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		*p = metav1.Unix(int64(r.IntN(2e9)), 0)
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(metav1.Unix(int64(r.IntN(2e9)), 0).Time)
		return
	case *resource.Quantity:
		*p = resource.MustParse([]string{"1", "100m", "1Gi", "0", "1e3"}[r.IntN(5)])
		return
	case *intstr.IntOrString:
		*p = []intstr.IntOrString{intstr.FromInt32(int32(r.IntN(100))), intstr.FromString(words[r.IntN(len(words))])}[r.IntN(2)]
		return
	case *metav1.FieldsV1:
		p.SetRawString([]string{`{"f:a":{}}`, `{ "f:b" : {"<":{}} }`, `{}`}[r.IntN(3)])
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a": [1, 2.5e3, "x", null]}`)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(words[r.IntN(len(words))])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(2000) - 1000))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth+1)
	case reflect.Slice:
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(4) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, 0)
			fill(r, value, depth+1)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(r, v.Field(i), depth+1)
			}
		}
	}
}

// What is written is what encoding/json writes, and what is read is what the library for it reads.
func TestAgreesWithLibraries(t *testing.T) {
	const rounds = 80
	types := &Types{}
	r := rand.New(rand.NewPCG(1, 2))
	read := 0
	for _, sample := range samples {
		for range rounds {
			obj := reflect.New(reflect.TypeOf(sample).Elem())
			fill(r, obj.Elem(), 0)
			want, err1 := json.Marshal(obj.Interface())
			got, err2 := types.Write(obj.Interface())
			if (err1 == nil) != (err2 == nil) {
				t.Fatalf("%T: %v, not %v", sample, err2, err1)
			}
			if string(got) != string(want) {
				t.Fatalf("%T:\n%s\nnot\n%s", sample, got, want)
			}
			if err1 != nil {
				continue
			}
			if sameRead(t, types, want, sample) {
				read++
			}
			indented, err := json.MarshalIndent(obj.Interface(), " ", "\t")
			if err != nil {
				t.Fatal(err)
			}
			sameRead(t, types, indented, sample)
		}
	}
	if read < rounds*len(samples)/2 {
		t.Errorf("of %d documents only %d were read", rounds*len(samples), read)
	}
}

// sameRead compares what is read with what the library reads, if there was no doubt.
func sameRead(t *testing.T, types *Types, data []byte, sample any) bool {
	t.Helper()
	quick, slow := reflect.New(reflect.TypeOf(sample).Elem()).Interface(), reflect.New(reflect.TypeOf(sample).Elem()).Interface()
	if !types.Read(data, quick) {
		return false
	}
	strict, err := kjson.UnmarshalStrict(data, slow)
	if err != nil || len(strict) > 0 {
		t.Fatalf("%T: read what must be complained of: %v %v\n%s", sample, err, strict, data)
	}
	if !reflect.DeepEqual(quick, slow) && !equality.Semantic.DeepEqual(quick, slow) {
		t.Fatalf("%T: %s\n%#v\nnot\n%#v", sample, data, quick, slow)
	}
	a, err := json.Marshal(quick)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(slow); err != nil || string(a) != string(b) {
		t.Fatalf("%T: %s\nnot %s (%v)", sample, a, b, err)
	}
	return true
}

func TestReadGivesUp(t *testing.T) {
	types := &Types{}
	for _, text := range []string{
		``, `{`, `[]`, `null`, `{}x`, `{} {}`, `{"kind":1}`, `{"Kind":"x"}`, `{"kind":"a","kind":"b"}`, `{"unknown":1}`, `{"metadata":{"labels":{"a":"1","a":"2"}}}`, `{"data":{"a":1}}`,
		`{"data":["a"]}`, `{"kind":"\ud800"}`, `{"kind":"a` + "\x01" + `"}`, `{"kind":"` + "\xff" + `"}`, `{"immutable":"true"}`, `{"immutable":tru}`, `{"binaryData":{"a":"*"}}`, `{"kind":"\x"}`,
		`{"metadata":{"generation":1.0}}`, `{"metadata":{"generation":01}}`, `{"metadata":{"generation":1e3}}`, `{"metadata":{"creationTimestamp":"today"}}`, `{"data":{"a":"b",}}`, `{"data" "x"}`,
		`{"metadata":{"managedFields":[{"fieldsV1":{"a":01}}]}}`, `{"metadata":{"generation":9223372036854775808}}`,
	} {
		if types.Read([]byte(text), &corev1.ConfigMap{}) {
			t.Errorf("%s: read", text)
		}
	}
	for _, text := range []string{`{}`, ` { } `, `{"metadata":null,"data":null,"immutable":null,"kind":null}`, `{"metadata":{"creationTimestamp":null,"generation":-0}}`, `{"data":{"a":null,"\u0061b":"\u00e4\/"}}`} {
		if !sameRead(t, types, []byte(text), &corev1.ConfigMap{}) {
			t.Errorf("%s: not read", text)
		}
	}
}

func FuzzRead(f *testing.F) {
	types := &Types{}
	for _, s := range []string{
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"},"managedFields":[{"fieldsV1":{"f:a":{}}}]},"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"100m","memory":1}},
"ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":"web"}}}],"terminationGracePeriodSeconds":30},"status":{"startTime":"2020-01-01T00:00:00Z"}}`,
		`{"spec":{"tolerations":[{"key":"a\nb\u00e9"}],"hostNetwork":true,"priority":-1}}`, `{"spec":{"containers":[null,{}],"volumes":[]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { sameRead(t, types, data, &corev1.Pod{}) })
}

func BenchmarkPod(b *testing.B) {
	types := &Types{}
	pod := &corev1.Pod{}
	fill(rand.New(rand.NewPCG(3, 4)), reflect.ValueOf(pod).Elem(), 0)
	data, err := json.Marshal(pod)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := types.Write(pod); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := json.Marshal(pod); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if !types.Read(data, &corev1.Pod{}) {
				b.Fatal("not read")
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := kjson.UnmarshalStrict(data, &corev1.Pod{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A type that has its own way of being read and written is left to it, the second time as the first.
func TestOwnWays(t *testing.T) {
	var types Types
	fields := &metav1.FieldsV1{Raw: []byte(`{"f:data":{}}`)}
	for range 2 {
		got, err := types.Write(fields)
		if err != nil || string(got) != `{"f:data":{}}` {
			t.Errorf("written as %q, %v", got, err)
		}
		got, err = types.Append([]byte("x"), fields)
		if err != nil || string(got) != `x{"f:data":{}}` {
			t.Errorf("appended as %q, %v", got, err)
		}
		if types.Read([]byte(`{"f:data":{}}`), new(metav1.FieldsV1)) {
			t.Error("it was read without its own way")
		}
	}
}
