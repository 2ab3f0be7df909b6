package discovery_test

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"reflect"
	"testing"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/discovery"
)

func get(t *testing.T, h *discovery.Handler, path, accept string) (any, string) {
	r := httptest.NewRequest("GET", path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	if !h.Serve(w, r) {
		t.Fatal("not served", path)
	}
	var v any
	json.Unmarshal(w.Body.Bytes(), &v)
	return v, w.Header().Get("Content-Type")
}

func load(f string) any {
	b, _ := os.ReadFile("/work/shared/golden/documents/" + f)
	var v any
	json.Unmarshal(b, &v)
	return v
}

func diff(t *testing.T, at string, a, b any) {
	switch x := a.(type) {
	case map[string]any:
		y, _ := b.(map[string]any)
		for k := range x {
			if _, ok := y[k]; !ok {
				t.Errorf("%s.%s missing; want %v", at, k, x[k])
			} else {
				diff(t, at+"."+k, x[k], y[k])
			}
		}
		for k := range y {
			if _, ok := x[k]; !ok && k != "storageVersionHash" {
				t.Errorf("%s.%s extra %v", at, k, y[k])
			}
		}
	case []any:
		y, _ := b.([]any)
		name := func(v any) string {
			m, ok := v.(map[string]any)
			if !ok {
				s, _ := json.Marshal(v)
				return string(s)
			}
			for _, k := range []string{"resource", "subresource", "name", "version"} {
				if s, ok := m[k].(string); ok {
					return s
				}
			}
			if md, ok := m["metadata"].(map[string]any); ok {
				s, _ := md["name"].(string)
				return s
			}
			s, _ := json.Marshal(v)
			return string(s)
		}
		var order []string
		m := map[string]any{}
		for _, v := range y {
			m[name(v)] = v
			order = append(order, name(v))
		}
		var want []string
		for _, v := range x {
			want = append(want, name(v))
			if m[name(v)] == nil {
				t.Errorf("%s[%s] missing", at, name(v))
				continue
			}
			diff(t, at+"["+name(v)+"]", v, m[name(v)])
		}
		if !reflect.DeepEqual(order, want) {
			t.Errorf("%s order/extra:\n got %v\nwant %v", at, order, want)
		}
	default:
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: got %v want %v", at, b, a)
		}
	}
}

func TestGolden(t *testing.T) {
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	h, err := discovery.New(c, "192.0.2.2:26444")
	if err != nil {
		t.Fatal(err)
	}
	v, _ := get(t, h, "/api", "")
	diff(t, "api", load("api.json"), v)
	v, _ = get(t, h, "/apis", "")
	diff(t, "apis", load("apis.json"), v)
	v, ct := get(t, h, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	t.Log(ct)
	diff(t, "agg", load("apis-aggregated.json"), v)
	v, _ = get(t, h, "/api", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	diff(t, "aggcore", load("api-aggregated.json"), v)
	for gv, r := range load("resources.json").(map[string]any) {
		p := "/apis/" + gv
		if gv == "v1" {
			p = "/api/v1"
		}
		v, _ := get(t, h, p, "application/json")
		diff(t, gv, r, v.(map[string]any)["resources"])
	}
}
