package env

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/node/downward"
)

func TestExpand(t *testing.T) {
	lookup := Lookup(map[string]string{"A": "1", "B": "$(A)", "": "empty"})
	tests := map[string]string{
		"":                 "",
		"plain":            "plain",
		"$(A)":             "1",
		"x$(A)y$(A)":       "x1y1",
		"$$(A)":            "$(A)",
		"$$$(A)":           "$1",
		"$$$$(A)":          "$$(A)",
		"$(B)":             "$(A)", // values aren't expanded again
		"$(C)":             "$(C)",
		"$(A":              "$(A",
		"$":                "$",
		"a$":               "a$",
		"$A":               "$A",
		"$()":              "empty",
		"$($(A))":          "$($(A))",
		"$(A)$":            "1$",
		"$(A)$$":           "1$",
		"--x=$(A),$(C)":    "--x=1,$(C)",
		"\u00e4$(A)\u20ac": "\u00e41\u20ac",
	}
	for in, want := range tests {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "$(A)", "$$(A)", "$(A", "a$b$(B)$$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// A lookup that knows nothing leaves every reference; only $$ becomes $.
		none := func(string) (string, bool) { return "", false }
		got := Expand(s, none)
		if !strings.Contains(s, "$$") && got != s {
			t.Errorf("Expand(%q) = %q without any variable", s, got)
		}
		if len(got) > len(s) {
			t.Errorf("Expand(%q) grew to %q", s, got)
		}
		all := func(string) (string, bool) { return "v", true }
		if got := Expand(s, all); len(got) > len(s)+len(s)/3 {
			t.Errorf("Expand(%q) = %q", s, got)
		}
	})
}

func FuzzParseFile(f *testing.F) {
	for _, s := range []string{"A='1'\n", "# c\n\nB='x\ny'\n", "C=1", "=x", "D='"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseFile(data)
		if err != nil {
			return
		}
		for k := range m {
			if k == "" || strings.ContainsAny(k, "= \t\n") {
				t.Errorf("a bad name %q came out of %q", k, data)
			}
		}
	})
}

type sources struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (s sources) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if c := s.configMaps[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

func (s sources) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if c := s.secrets[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func TestMake(t *testing.T) {
	yes := true
	src := sources{
		configMaps: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"k": "v", "X": "from"}}},
		secrets:    map[string]*corev1.Secret{"s": {Data: map[string][]byte{"p": []byte("w")}}},
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{NodeName: "n"}}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	cmKey := func(name, key string, optional *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: optional}}
	}
	c := &corev1.Container{
		Name:      "c",
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}},
		EnvFrom: []corev1.EnvFromSource{
			{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: &yes}},
		},
		Env: []corev1.EnvVar{
			{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)-$(P_k)-$(SVC_SERVICE_HOST)-$(NO)"}, {Name: "P_X", Value: "mine"},
			{Name: "LABEL", ValueFrom: field("metadata.labels['app']")}, {Name: "NODE", ValueFrom: field("spec.nodeName")}, {Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "SKIP", ValueFrom: cmKey("cm", "nokey", &yes)},
		},
	}
	in := Input{Pod: pod, Container: c, Sources: src, Services: map[string]string{"SVC_SERVICE_HOST": "10.0.0.1"},
		Node: downward.Node{PodIPs: []string{"10.1.0.1"}, Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}}}
	vars, err := Make(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range vars {
		got[v.Name] = v.Value
	}
	want := map[string]string{
		"P_k": "v", "P_X": "mine", "p": "w", "A": "a", "B": "a-v-10.0.0.1-$(NO)", "LABEL": "web", "NODE": "n", "IP": "10.1.0.1", "CPU": "2", "MEM": "2048", "SVC_SERVICE_HOST": "10.0.0.1",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, tt := range []struct {
		from *corev1.EnvVarSource
		want string
	}{
		{cmKey("gone", "k", nil), `configmap "gone" not found`},
		{cmKey("cm", "nokey", nil), "couldn't find key nokey in ConfigMap ns/cm"},
		{&corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}, Key: "k"}}, `secret "gone" not found`},
		{&corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}, "couldn't find key k in Secret ns/s"},
		{field("spec.nope"), "unsupported fieldPath: spec.nope"},
	} {
		in.Container = &corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: tt.from}}}
		if _, err := Make(context.Background(), in); err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}

func TestServices(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	list := []*corev1.Service{
		svc("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		svc("ns", "my-web", "10.96.0.2", corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolTCP}),
		svc("ns", "headless", "None", corev1.ServicePort{Port: 80}),
		svc("other", "x", "10.96.0.3", corev1.ServicePort{Port: 80}),
	}
	got := Services(list, "ns", true)
	want := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
		"KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"MY_WEB_SERVICE_HOST": "10.96.0.2", "MY_WEB_SERVICE_PORT": "80", "MY_WEB_PORT": "tcp://10.96.0.2:80", "MY_WEB_PORT_80_TCP": "tcp://10.96.0.2:80",
		"MY_WEB_PORT_80_TCP_PROTO": "tcp", "MY_WEB_PORT_80_TCP_PORT": "80", "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.2",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := Services(list, "ns", false); len(got) != 8 {
		t.Errorf("without links: %v", got)
	}
}
