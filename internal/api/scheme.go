package api

import (
	"net/url"
	"reflect"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apidiscoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	batchv1beta1 "k8s.io/api/batch/v1beta1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// newScheme registers the Go types of every version that the process can read: those that are served, those of another time
// that it still understands, and the types of meta/v1 in each of their groups. It holds no conversions between versions
// (Catalogue.ToHub and FromHub do that) but knows how to read query parameters into the option types.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	add := runtime.NewSchemeBuilder(
		corev1.AddToScheme,
		admissionregistrationv1.AddToScheme,
		apidiscoveryv2.AddToScheme,
		apidiscoveryv2beta1.AddToScheme,
		apiextensionsv1.AddToScheme,
		apiregistrationv1.AddToScheme,
		appsv1.AddToScheme,
		appsv1beta1.AddToScheme,
		appsv1beta2.AddToScheme,
		authenticationv1.AddToScheme,
		authorizationv1.AddToScheme,
		autoscalingv1.AddToScheme,
		autoscalingv2.AddToScheme,
		batchv1.AddToScheme,
		batchv1beta1.AddToScheme,
		certificatesv1.AddToScheme,
		coordinationv1.AddToScheme,
		discoveryv1.AddToScheme,
		eventsv1.AddToScheme,
		extensionsv1beta1.AddToScheme,
		flowcontrolv1.AddToScheme,
		networkingv1.AddToScheme,
		networkingv1beta1.AddToScheme,
		nodev1.AddToScheme,
		policyv1.AddToScheme,
		policyv1beta1.AddToScheme,
		rbacv1.AddToScheme,
		resourcev1.AddToScheme,
		schedulingv1.AddToScheme,
		storagev1.AddToScheme,
		storagemigrationv1.AddToScheme,
		metav1.AddMetaToScheme,
		addOptions,
		addQueries,
	)
	if err := add.AddToScheme(s); err != nil {
		return nil, err
	}
	return s, nil
}

// addOptions registers the options of meta/v1 in meta.k8s.io/v1 too, where clients send them as DeleteOptions and the like.
func addOptions(s *runtime.Scheme) error {
	metav1.AddToGroupVersion(s, schema.GroupVersion{Group: metav1.GroupName, Version: "v1"})
	return nil
}

// addQueries registers how query parameters become the options of the core group's connecting subresources. Those of
// meta/v1 are registered by AddToGroupVersion.
func addQueries(s *runtime.Scheme) error {
	for _, out := range []any{
		&corev1.PodLogOptions{}, &corev1.PodExecOptions{}, &corev1.PodAttachOptions{}, &corev1.PodPortForwardOptions{},
		&corev1.PodProxyOptions{}, &corev1.NodeProxyOptions{}, &corev1.ServiceProxyOptions{},
	} {
		err := s.AddConversionFunc((*url.Values)(nil), out, func(in, out any, _ conversion.Scope) error {
			return queryInto(*in.(*url.Values), out)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// queryInto sets the fields of the struct that out points to from the parameters of their JSON names. As upstream does, a
// parameter without a value sets a boolean, "false" and "0" clear it, and what is no number is an error.
func queryInto(q url.Values, out any) error {
	v := reflect.ValueOf(out).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := q[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := setField(v.Field(i), values); err != nil {
			return err
		}
	}
	return nil
}

func setField(f reflect.Value, values []string) error {
	text := values[0]
	if f.Kind() == reflect.Pointer {
		if f.Type() == reflect.TypeFor[*metav1.Time]() {
			if text == "" {
				return nil
			}
			t := &metav1.Time{}
			if err := t.UnmarshalQueryParameter(text); err != nil {
				return err
			}
			f.Set(reflect.ValueOf(t))
			return nil
		}
		if text == "" {
			return nil
		}
		f.Set(reflect.New(f.Type().Elem()))
		return setField(f.Elem(), values)
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		f.SetBool(text != "false" && text != "0")
	case reflect.Int32, reflect.Int64, reflect.Int:
		n, err := strconv.ParseInt(text, 10, f.Type().Bits())
		if err != nil {
			return err
		}
		f.SetInt(n)
	case reflect.Slice:
		if f.Type().Elem().Kind() == reflect.String {
			f.Set(reflect.ValueOf(append([]string(nil), values...)).Convert(f.Type()))
			return nil
		}
		for _, t := range values {
			e := reflect.New(f.Type().Elem()).Elem()
			if err := setField(e, []string{t}); err != nil {
				return err
			}
			f.Set(reflect.Append(f, e))
		}
	}
	return nil
}
