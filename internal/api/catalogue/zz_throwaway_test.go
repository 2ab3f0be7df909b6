package catalogue_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
)

type gcase struct {
	Name  string  `json:"case"`
	Steps []gstep `json:"steps"`
}
type gstep struct {
	Do      string            `json:"do"`
	Type    string            `json:"type,omitempty"`
	Accept  string            `json:"accept,omitempty"`
	As      string            `json:"as,omitempty"`
	Body    any               `json:"body,omitempty"`
	Keep    []string          `json:"keep,omitempty"`
	Capture map[string]string `json:"capture,omitempty"`
}
type ganswer struct {
	Do       string   `json:"do"`
	Status   int      `json:"status"`
	Warnings []string `json:"warnings,omitempty"`
	Body     any      `json:"body,omitempty"`
}

var rePath = regexp.MustCompile(`^(\w+) /(api|apis/([^/]+))/([^/]+)/(?:namespaces/([^/]+)/)?([^/?]+)(?:/([^/?]+))?(?:/([^/?]+))?(?:\?(.*))?$`)

func TestGoldenThrowaway(t *testing.T) {
	only := regexp.MustCompile(os.Getenv("ONLY"))
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	ok, bad := 0, 0
	for _, file := range []string{"groups", "groups-control"} {
		b, _ := os.ReadFile("/work/shared/golden/cases/" + file + ".yaml")
		for _, doc := range regexp.MustCompile(`(?m)^---\s*$`).Split(string(b), -1) {
			var k gcase
			if err := yaml.Unmarshal([]byte(doc), &k); err != nil {
				t.Fatal(err)
			}
			if k.Name == "" || !only.MatchString(k.Name) {
				continue
			}
			ab, _ := os.ReadFile("/work/shared/golden/answers/" + file + "/" + k.Name + ".json")
			var want []ganswer
			json.Unmarshal(ab, &want)
			diffs := play(c, k, want)
			if len(diffs) == 0 {
				ok++
				continue
			}
			bad++
			fmt.Println("DIFFERS", k.Name)
			for _, d := range diffs {
				fmt.Println("   ", d)
			}
		}
	}
	fmt.Println("ok", ok, "bad", bad)
}

func play(c *api.Catalogue, k gcase, want []ganswer) (diffs []string) {
	defer func() {
		if p := recover(); p != nil {
			diffs = append(diffs, fmt.Sprint("PANIC ", p))
		}
	}()
	objs := map[string]api.Object{}
	for i, s := range k.Steps {
		w := want[i]
		m := rePath.FindStringSubmatch(strings.ReplaceAll(s.Do, "$NS", "ns1"))
		if m == nil || w.Status == 409 || w.Status == 404 || w.Status == 403 || w.Status == 400 || s.As != "" {
			continue
		}
		method, group, version, ns, res, name, sub, query := m[1], m[3], m[4], m[5], m[6], m[7], m[8], m[9]
		kind, v, found := c.ByResource(schema.GroupVersionResource{Group: group, Version: version, Resource: res})
		if !found {
			diffs = append(diffs, "unknown "+s.Do)
			continue
		}
		if kind.Virtual || (sub != "" && sub != "status") {
			continue
		}
		status, body, warns := one(c, kind, v, objs, method, ns, name, sub, query, s)
		if status == 0 {
			continue
		}
		at := fmt.Sprintf("step %d %s: ", i, s.Do)
		if status != w.Status {
			mm, _ := json.Marshal(body)
			diffs = append(diffs, fmt.Sprintf("%sstatus %d want %d: %.500s", at, status, w.Status, mm))
			continue
		}
		var ww []string
		for _, x := range w.Warnings {
			x = strings.TrimSuffix(strings.TrimPrefix(x, `299 - "`), `"`)
			x = strings.ReplaceAll(x, `\"`, `"`)
			if strings.HasPrefix(x, "child pods are") || strings.HasPrefix(x, "unknown field") {
				continue
			}
			ww = append(ww, x)
		}
		if fmt.Sprint(ww) != fmt.Sprint(warns) && method != "GET" && status < 300 {
			diffs = append(diffs, fmt.Sprintf("%swarnings %q want %q", at, warns, ww))
		}
		jb, _ := json.Marshal(body)
		var got any
		json.Unmarshal(jb, &got)
		if len(s.Keep) > 0 {
			kept := map[string]any{}
			for _, p := range s.Keep {
				kept[p] = norm(lookup(got, p), lastKey(p), "ns1")
			}
			got = kept
		} else {
			got = norm(got, "", "ns1")
		}
		jb, _ = json.Marshal(got)
		json.Unmarshal(jb, &got)
		cmp(at, "", w.Body, got, &diffs)
	}
	return diffs
}

func lastKey(p string) string {
	parts := strings.Split(p, ".")
	for i := len(parts) - 1; i >= 0; i-- {
		if !regexp.MustCompile(`^\d+$`).MatchString(parts[i]) {
			return parts[i]
		}
	}
	return ""
}

func one(c *api.Catalogue, k *api.Kind, v *api.Version, objs map[string]api.Object, method, ns, name, sub, query string, s gstep) (int, any, []string) {
	fail := func(errs field.ErrorList, name string) (int, any, []string) {
		st := apierrors.NewInvalid(k.GroupKind(), name, errs).Status()
		st.Kind, st.APIVersion = "Status", "v1"
		return 422, st, nil
	}
	out := func(o api.Object) any {
		if strings.Contains(s.Accept, "as=Table") {
			return tableOf(k, []api.Object{o})
		}
		x, err := c.FromHub(k, v, o)
		if err != nil {
			return err.Error()
		}
		return x
	}
	dry := strings.Contains(query, "dryRun")
	key := k.Resource + "/" + ns + "/" + name
	dec := func(b []byte) (api.Object, error) {
		obj := v.New()
		if err := kjson.UnmarshalCaseSensitivePreserveInts(b, obj); err != nil {
			return nil, err
		}
		h, err := c.ToHub(k, v, obj)
		if err != nil {
			return nil, err
		}
		if k.Default != nil {
			k.Default(h)
		}
		return h, nil
	}
	body, _ := json.Marshal(s.Body)
	if str, ok := s.Body.(string); ok {
		body = []byte(str)
	}
	body = []byte(strings.ReplaceAll(strings.ReplaceAll(string(body), "$NS", "ns1"), "${rv}", "1"))
	switch method {
	case "GET":
		if name == "" {
			var list []api.Object
			for kk, o := range objs {
				if strings.HasPrefix(kk, k.Resource+"/"+ns+"/") {
					list = append(list, o)
				}
			}
			sort.Slice(list, func(i, j int) bool { return list[i].GetName() < list[j].GetName() })
			if strings.Contains(s.Accept, "as=Table") {
				return 200, tableOf(k, list), nil
			}
			return 0, nil, nil
		}
		o, ok := objs[key]
		if !ok {
			return 0, nil, nil
		}
		return 200, out(o), nil
	case "DELETE":
		delete(objs, key)
		return 0, nil, nil
	case "POST":
		h, err := dec(body)
		if err != nil {
			return 400, err.Error(), nil
		}
		if ns != "" {
			h.SetNamespace(ns)
		}
		h.SetUID(uuid.NewUUID())
		h.SetCreationTimestamp(metav1.Now())
		if k.HasGeneration {
			h.SetGeneration(1)
		} else {
			h.SetGeneration(0)
		}
		if k.PrepareForCreate != nil {
			k.PrepareForCreate(h)
		}
		vn := k.ValidateName
		if vn == nil {
			vn = apivalidation.NameIsDNSSubdomain
		}
		errs := apivalidation.ValidateObjectMetaAccessor(h, k.Namespaced, apivalidation.ValidateNameFunc(vn), field.NewPath("metadata"))
		if k.Validate != nil {
			errs = append(errs, k.Validate(h)...)
		}
		if len(errs) > 0 {
			return fail(errs, h.GetName())
		}
		var warns []string
		if k.Warnings != nil {
			warns = k.Warnings(h, nil)
		}
		if k.Canonicalize != nil {
			k.Canonicalize(h)
		}
		if !dry {
			objs[k.Resource+"/"+ns+"/"+h.GetName()] = h
		}
		return 201, out(h), warns
	case "PUT", "PATCH":
		old, ok := objs[key]
		if !ok {
			return 0, nil, nil
		}
		var h api.Object
		var err error
		if method == "PUT" {
			h, err = dec(body)
			if err == nil && !k.AllowUnconditionalUpdate && h.GetResourceVersion() == "" {
				return 0, nil, nil
			}
		} else {
			shown, e := c.FromHub(k, v, old)
			if e != nil {
				return 500, e.Error(), nil
			}
			cur, _ := json.Marshal(shown)
			switch {
			case strings.Contains(s.Type, "strategic"):
				cur, err = strategicpatch.StrategicMergePatch(cur, body, v.New())
			case strings.Contains(s.Type, "json-patch"):
				var p jsonpatch.Patch
				p, err = jsonpatch.DecodePatch(body)
				if err == nil {
					cur, err = p.Apply(cur)
				}
			case strings.Contains(s.Type, "apply"):
				return 0, nil, nil
			default:
				cur, err = jsonpatch.MergePatch(cur, body)
			}
			if err == nil {
				h, err = dec(cur)
			}
		}
		if err != nil {
			return 400, err.Error(), nil
		}
		if ns != "" {
			h.SetNamespace(ns)
		}
		h.SetUID(old.GetUID())
		h.SetCreationTimestamp(old.GetCreationTimestamp())
		h.SetGeneration(old.GetGeneration())
		var errs field.ErrorList
		if sub == "status" {
			if k.PrepareForStatusUpdate != nil {
				k.PrepareForStatusUpdate(h, old)
			}
		} else {
			if k.PrepareForUpdate != nil {
				k.PrepareForUpdate(h, old)
			}
			if k.HasGeneration && changed(k, h, old) {
				h.SetGeneration(old.GetGeneration() + 1)
			}
		}
		h.SetResourceVersion("1")
		o2 := old.DeepCopyObject().(api.Object)
		o2.SetResourceVersion("1")
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(h, o2, field.NewPath("metadata"))
		h.SetResourceVersion("")
		var warns []string
		if sub == "status" {
			if k.ValidateStatusUpdate != nil {
				errs = append(errs, k.ValidateStatusUpdate(h, old)...)
			}
		} else {
			if k.ValidateUpdate != nil {
				errs = append(errs, k.ValidateUpdate(h, old)...)
			}
			if k.Warnings != nil && len(errs) == 0 {
				warns = k.Warnings(h, old)
			}
		}
		if len(errs) > 0 {
			return fail(errs, h.GetName())
		}
		if !dry {
			objs[key] = h
		}
		return 200, out(h), warns
	}
	return 0, nil, nil
}

func changed(k *api.Kind, h, old api.Object) bool {
	if k.GenerationChanged != nil {
		return k.GenerationChanged(h, old)
	}
	f := func(o api.Object) string {
		b, _ := json.Marshal(o)
		var m map[string]any
		json.Unmarshal(b, &m)
		delete(m, "metadata")
		delete(m, "status")
		b, _ = json.Marshal(m)
		return string(b)
	}
	return f(h) != f(old)
}

func tableOf(k *api.Kind, list []api.Object) any {
	if k.Row == nil {
		rows := []any{}
		for _, o := range list {
			rows = append(rows, map[string]any{"cells": []any{o.GetName(), o.GetCreationTimestamp().UTC().Format(time.RFC3339)}})
		}
		return map[string]any{"kind": "Table", "rows": rows}
	}
	rows := []any{}
	for _, o := range list {
		rows = append(rows, map[string]any{"cells": k.Row(o, time.Now())})
	}
	return map[string]any{"kind": "Table", "columnDefinitions": k.Columns, "rows": rows}
}

func lookup(v any, path string) any {
	for _, p := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			var i int
			if _, err := fmt.Sscan(p, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

var (
	reUID  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	reTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	reIP   = regexp.MustCompile(`\b10\.\d+\.\d+\.\d+\b`)
	reAge  = regexp.MustCompile(`^\d+(s|m|h|d|y|ms)(\d+(s|m|h|d))?$`)
)

func norm(v any, key, ns string) any {
	switch x := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range x {
			out[k] = norm(e, k, ns)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = norm(e, key, ns)
		}
		return out
	case string:
		switch key {
		case "resourceVersion", "uid":
			if x == "" {
				return ""
			}
			return "<" + key + ">"
		case "cells":
			if reAge.MatchString(x) {
				return "<age>"
			}
		}
		s := strings.ReplaceAll(x, ns, "$NS")
		s = reUID.ReplaceAllString(s, "<uid>")
		s = reTime.ReplaceAllString(s, "<time>")
		s = reIP.ReplaceAllString(s, "<ip>")
		return s
	}
	return v
}

func cmp(at, p string, w, g any, out *[]string) {
	if strings.HasSuffix(p, ".managedFields") || strings.HasSuffix(p, "resourceVersion") || strings.HasSuffix(p, "metadata.uid") || strings.HasSuffix(p, ".object") || strings.HasSuffix(p, ".finalizers") || p == ".metadata.managedFields" {
		return
	}
	switch x := w.(type) {
	case map[string]any:
		y, _ := g.(map[string]any)
		if n := x["name"]; (n == "Name" || n == "Age") && x["priority"] != nil {
			return
		}
		if x["kind"] == "Table" {
			if y["columnDefinitions"] != nil {
				cmp(at, p+".columnDefinitions", x["columnDefinitions"], y["columnDefinitions"], out)
			}
			cmp(at, p+".rows", x["rows"], y["rows"], out)
			return
		}
		if x["kind"] == "Status" && x["status"] == "Failure" {
			cmp(at, p+".message", x["message"], y["message"], out)
			return
		}
		for k := range x {
			if strings.Contains(k, "managedFields") || k == "details" {
				continue
			}
			cmp(at, p+"."+k, x[k], y[k], out)
		}
		for k := range y {
			if _, ok := x[k]; !ok && k != "managedFields" && k != "details" && k != "resourceVersion" {
				b, _ := json.Marshal(y[k])
				*out = append(*out, fmt.Sprintf("%s%s.%s extra %.200s", at, p, k, b))
			}
		}
	case []any:
		y, _ := g.([]any)
		if len(x) != len(y) {
			a, _ := json.Marshal(g)
			b, _ := json.Marshal(w)
			*out = append(*out, fmt.Sprintf("%s%s: got %.900s\n        want %.900s", at, p, a, b))
			return
		}
		for i := range x {
			cmp(at, fmt.Sprintf("%s[%d]", p, i), x[i], y[i], out)
		}
	default:
		a, _ := json.Marshal(g)
		b, _ := json.Marshal(w)
		if string(a) != string(b) {
			*out = append(*out, fmt.Sprintf("%s%s: got %s", at, p, around(string(a), string(b))))
		}
	}
}

var _ = runtime.Object(nil)
var _ = types.UID("")

func around(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	j := max(i-60, 0)
	if len(a)+len(b) < 900 {
		j = 0
	}
	return fmt.Sprintf("%.500s\n        want %.500s", a[min(j, len(a)):], b[min(j, len(b)):])
}
