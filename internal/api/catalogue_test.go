package api_test

import (
	"net/url"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api"
)

func configMap() *api.Kind {
	return &api.Kind{
		Kind: "ConfigMap", Resource: "configmaps", Singular: "configmap", Namespaced: true, Prefix: "configmaps", Hub: "v1",
		Versions: []api.Version{api.NewVersion[corev1.ConfigMap, corev1.ConfigMapList]("v1")},
	}
}

func TestNewCatalogueRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(k *api.Kind)
		want  string
	}{
		{"no name", func(k *api.Kind) { k.Singular = "" }, "singular name"},
		{"no prefix", func(k *api.Kind) { k.Prefix = "" }, "store prefix"},
		{"no hub", func(k *api.Kind) { k.Hub = "v2" }, `hub version "v2"`},
		{"a row is missing", func(k *api.Kind) { k.Columns = make([]metav1.TableColumnDefinition, 1) }, "columns without a row"},
		{"unnamed fields", func(k *api.Kind) { k.Fields = func(api.Object) fields.Set { return nil } }, "field names"},
		{"unknown version", func(k *api.Kind) {
			k.Versions = append(k.Versions, api.NewVersion[corev1.ConfigMap, corev1.ConfigMapList]("v9"))
		}, "does not know"},
		{"another type", func(k *api.Kind) {
			k.Versions = []api.Version{api.NewVersion[corev1.Secret, corev1.SecretList]("v1")}
		}, "the scheme says"},
		{"twice the same version", func(k *api.Kind) { k.Versions = append(k.Versions, k.Versions[0]) }, "already taken"},
		{"a subresource without verbs", func(k *api.Kind) { k.Subresources = []api.Subresource{{Name: "x"}} }, "wants a name and verbs"},
		{"a subresource of unknown kind", func(k *api.Kind) {
			k.Subresources = []api.Subresource{{Name: "x", Verbs: []string{"get"}, Kind: schema.GroupVersionKind{Kind: "Y"}}}
		}, "does not know"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := configMap()
			c.spoil(k)
			if _, err := api.NewCatalogue([]*api.Kind{k}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := api.NewCatalogue([]*api.Kind{configMap(), configMap()}); err == nil {
		t.Error("two kinds of one name were accepted")
	}
}

func newCatalogue(t *testing.T, kinds ...*api.Kind) *api.Catalogue {
	t.Helper()
	c, err := api.NewCatalogue(kinds)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStoredForm compares with bytes that upstream's server wrote for a ConfigMap.
func TestStoredForm(t *testing.T) {
	k := configMap()
	codec := newCatalogue(t, k).Codec(k)
	data, err := codec.Append(nil, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "5"}, Data: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01a\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x06\n\x01k\x12\x01v\x1a\x00\"\x00"
	if string(data) != want {
		t.Errorf("got  %q\nwant %q", data, want)
	}
	obj, err := codec.Decode([]byte(want))
	if err != nil {
		t.Fatal(err)
	}
	if cm := obj.(*corev1.ConfigMap); cm.Kind != "ConfigMap" || cm.APIVersion != "v1" || cm.Name != "a" || cm.Data["k"] != "v" {
		t.Errorf("decoded %+v", cm)
	}
}

func TestDecode(t *testing.T) {
	k := configMap()
	codec := newCatalogue(t, k).Codec(k)
	for _, c := range []struct{ name, data, want string }{
		{"JSON", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"9"}}`, ""},
		{"nothing", "", "neither protobuf nor JSON"},
		{"encrypted", "k8s:enc:aescbc:v1:key:...", "neither protobuf nor JSON"},
		{"another kind", `{"apiVersion":"v1","kind":"Secret"}`, "found a /v1, Kind=Secret"},
		{"a newer version", `{"apiVersion":"v2","kind":"ConfigMap"}`, "no version of the kind"},
		{"an older version", `{"apiVersion":"v1beta1","kind":"ConfigMap","metadata":{"name":"a"}}`, ""},
		{"cut off", "k8s\x00\n\x0f\n\x02v1", "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obj, err := codec.Decode([]byte(c.data))
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "" && (obj.GetName() != "a" || obj.GetResourceVersion() != ""):
				t.Errorf("decoded %+v", obj)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	k := configMap()
	c, err := api.NewCatalogue([]*api.Kind{k})
	if err != nil {
		f.Fatal(err)
	}
	codec := c.Codec(k)
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}`))
	f.Add([]byte("k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01a\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x06\n\x01k\x12\x01v\x1a\x00\"\x00"))
	f.Add([]byte("k8s\x00\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		obj, err := codec.Decode(data)
		if err != nil {
			return
		}
		if _, err := codec.Append(nil, obj); err != nil {
			t.Errorf("decoded but not encoded: %v", err)
		}
	})
}

func TestLegacy(t *testing.T) {
	k := &api.Kind{
		Group: "apps", Kind: "Deployment", Resource: "deployments", Singular: "deployment", Namespaced: true, Prefix: "deployments", Hub: "v1",
		Versions: []api.Version{
			api.NewVersion[appsv1.Deployment, appsv1.DeploymentList]("v1"),
			api.Legacy[*appsv1.Deployment, extensionsv1beta1.Deployment, extensionsv1beta1.DeploymentList]("extensions", "v1beta1", nil, nil),
		},
	}
	c := newCatalogue(t, k)
	_, v, ok := c.ByResource(schema.GroupVersionResource{Group: "extensions", Version: "v1beta1", Resource: "deployments"})
	if !ok || !v.Hidden {
		t.Fatal("the hidden version is not found")
	}
	if want := "extensions/v1beta1 Deployment is deprecated in v1.8+, unavailable in v1.16+; use apps/v1 Deployment"; v.Deprecated != want {
		t.Errorf("warning %q, want %q", v.Deprecated, want)
	}
	if g := c.Groups(); len(g) != 1 || g[0].Name != "apps" || g[0].Preferred() != "v1" {
		t.Errorf("groups %+v", g)
	}
	three := int32(3)
	old := &extensionsv1beta1.Deployment{}
	old.Name, old.Spec.Replicas = "d", &three
	hub, err := c.ToHub(k, v, old)
	if err != nil {
		t.Fatal(err)
	}
	if d := hub.(*appsv1.Deployment); d.APIVersion != "apps/v1" || d.Name != "d" || *d.Spec.Replicas != 3 {
		t.Errorf("converted to %+v", d)
	}
	back, err := c.FromHub(k, v, hub)
	if err != nil {
		t.Fatal(err)
	}
	if d := back.(*extensionsv1beta1.Deployment); d.APIVersion != "extensions/v1beta1" || *d.Spec.Replicas != 3 {
		t.Errorf("converted back to %+v", d)
	}
	if _, err := c.ToHub(k, v, &corev1.Pod{}); err != nil {
		t.Log(err) // through JSON nearly everything fits; the point is that nothing panics
	}
}

func TestPriority(t *testing.T) {
	for _, c := range []struct {
		gv             schema.GroupVersion
		group, version int32
	}{
		{schema.GroupVersion{Version: "v1"}, 18000, 1},
		{schema.GroupVersion{Group: "apps", Version: "v1"}, 17800, 15},
		{schema.GroupVersion{Group: "autoscaling", Version: "v2"}, 17500, 30},
		{schema.GroupVersion{Group: "resource.k8s.io", Version: "v1"}, 16200, 21},
		{schema.GroupVersion{Group: "example.com", Version: "v1"}, 1000, 100},
	} {
		if g, v := api.Priority(c.gv); g != c.group || v != c.version {
			t.Errorf("%s: %d %d, want %d %d", c.gv, g, v, c.group, c.version)
		}
	}
}

// TestQueries reads the options of streaming subresources as the server gets them.
func TestQueries(t *testing.T) {
	c := newCatalogue(t, configMap())
	params := runtime.NewParameterCodec(c.Scheme())
	decode := func(query string, into runtime.Object) error {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		return params.DecodeParameters(q, schema.GroupVersion{Version: "v1"}, into)
	}
	var logs corev1.PodLogOptions
	if err := decode("container=c&follow=true&tailLines=5&sinceTime=2024-01-01T00:00:00Z&previous", &logs); err != nil {
		t.Fatal(err)
	}
	if logs.Container != "c" || !logs.Follow || logs.TailLines == nil || *logs.TailLines != 5 || logs.SinceTime == nil || !logs.Previous {
		t.Errorf("log options %+v", logs)
	}
	var exec corev1.PodExecOptions
	if err := decode("command=sh&command=-c&stdin=1&tty=false", &exec); err != nil {
		t.Fatal(err)
	}
	if len(exec.Command) != 2 || !exec.Stdin || exec.TTY {
		t.Errorf("exec options %+v", exec)
	}
	if err := decode("tailLines=many", &corev1.PodLogOptions{}); err == nil {
		t.Error("a word was taken for a number")
	}
	var list metav1.ListOptions
	if err := decode("limit=3&labelSelector=a%3Db&watch=true", &list); err != nil || list.Limit != 3 || list.LabelSelector != "a=b" || !list.Watch {
		t.Errorf("list options %+v, %v", list, err)
	}
}
