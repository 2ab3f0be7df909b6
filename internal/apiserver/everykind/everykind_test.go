package everykind_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/apitest"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) {
	// Each check of the properties below is two requests for each of some fifty kinds; -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

type everybody struct{}

func (everybody) AuthenticateRequest(*http.Request) (user.Info, bool, error) {
	return &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}, true, nil
}

func (everybody) Authorize(context.Context, request.Attributes) (request.Decision, string, error) {
	return request.Allow, "", nil
}

// world is a server over an empty memory engine, without admission.
type world struct {
	catalogue *api.Catalogue
	handler   http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	engine := memory.New()
	st, err := store.New(context.Background(), engine, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := apiserver.Register(st, c); err != nil {
		t.Fatal(err)
	}
	if err := st.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := apiserver.New(apiserver.Config{
		Store: st, Catalogue: c, Authenticator: everybody{}, Authorizer: everybody{}, Version: apiversion.Info{Major: "1", Minor: "37"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &world{c, s.Handler()}
}

// object is decoded JSON.
type object map[string]any

func (o object) meta() map[string]any {
	m, _ := o["metadata"].(map[string]any)
	return m
}

func (o object) revision() any { return o.meta()["resourceVersion"] }

// fataler is what testing.T and rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// call makes a request and returns the code and the decoded answer.
func (w *world) call(t fataler, method, path, contentType, accept string, body any) (int, []byte) {
	t.Helper()
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		var err error
		if data, err = json.Marshal(b); err != nil {
			t.Fatalf("%v", err)
		}
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(data))
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", "tester/1")
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec.Code, rec.Body.Bytes()
}

const jsonType = "application/json"

// must is call for a JSON answer with an expected code.
func (w *world) must(t fataler, code int, method, path, contentType string, body any) object {
	t.Helper()
	got, data := w.call(t, method, path, contentType, jsonType, body)
	if got != code {
		t.Fatalf("%s %s: %d, want %d: %.600s", method, path, got, code, data)
	}
	var out object
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return out
}

const namespace = "default"

// collection is the path of a kind's collection in a version.
func collection(k *api.Kind, v *api.Version) string {
	gv := k.GroupVersion(v)
	path := "/apis/" + gv.String()
	if gv.Group == "" {
		path = "/api/" + gv.Version
	}
	if k.Namespaced {
		path += "/namespaces/" + namespace
	}
	return path + "/" + k.Resource
}

func hasStatus(k *api.Kind) bool {
	return slices.ContainsFunc(k.Subresources, func(s api.Subresource) bool { return s.Name == "status" })
}

func read(t *testing.T, document string) object {
	t.Helper()
	var o object
	if err := yaml.Unmarshal([]byte(document), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestEveryKind asks for each kind what must hold for all.
func TestEveryKind(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	for _, s := range apitest.Samples(t, w.catalogue) {
		k := s.Kind
		t.Run(k.GroupKind().String(), func(t *testing.T) {
			base := collection(k, k.HubVersion())
			made := w.must(t, http.StatusCreated, "POST", base+"?fieldValidation=Strict", "application/yaml", s.Document)
			path := base + "/" + fmt.Sprint(made.meta()["name"])
			t.Run("unknown field", func(t *testing.T) { w.unknownField(t, base, read(t, s.Document)) })
			t.Run("forms", func(t *testing.T) { w.forms(t, k, path) })
			t.Run("no change", func(t *testing.T) { w.noChange(t, k, path) })
			t.Run("table", func(t *testing.T) { w.table(t, base, path) })
			t.Run("doors", func(t *testing.T) { w.doors(t, k, path) })
			t.Run("apply", func(t *testing.T) { other.apply(t, path, s.Document) })
		})
	}
}

// unknownField: what the type does not have is refused under Strict.
func (w *world) unknownField(t *testing.T, base string, o object) {
	o["nonsense"] = 1
	o.meta()["name"] = "other"
	got := w.must(t, http.StatusBadRequest, "POST", base+"?fieldValidation=Strict", jsonType, o)
	if text := fmt.Sprint(got["message"]); !strings.Contains(text, `unknown field "nonsense"`) {
		t.Errorf("message %q", text)
	}
}

// forms: JSON, YAML and protobuf say the same, managed fields included.
func (w *world) forms(t *testing.T, k *api.Kind, path string) {
	plain := w.must(t, http.StatusOK, "GET", path, jsonType, nil)
	_, text := w.call(t, "GET", path, "", "application/yaml", nil)
	if fromYAML := read(t, string(text)); !reflect.DeepEqual(plain, fromYAML) {
		t.Errorf("YAML differs:\n%v\n%v", plain, fromYAML)
	}
	const protobuf = "application/vnd.kubernetes.protobuf"
	if _, ok := k.HubVersion().New().(interface{ Unmarshal([]byte) error }); !ok || k.StoredAsJSON {
		return
	}
	code, data := w.call(t, "GET", path, "", protobuf, nil)
	if code != http.StatusOK {
		t.Fatalf("protobuf: %d %.200s", code, data)
	}
	for _, info := range w.catalogue.Serializers() {
		if info.MediaType != protobuf {
			continue
		}
		obj, _, err := info.Serializer.Decode(data, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		var back object
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatal(err)
		}
		untype(plain)
		if !reflect.DeepEqual(plain, back) {
			t.Errorf("protobuf differs:\n%v\n%v", plain, back)
		}
	}
}

// untype takes the types out of claim templates: a protobuf message has no room for them.
func untype(o object) {
	spec, _ := o["spec"].(map[string]any)
	claims, _ := spec["volumeClaimTemplates"].([]any)
	for _, c := range claims {
		if m, ok := c.(map[string]any); ok {
			delete(m, "apiVersion")
			delete(m, "kind")
		}
	}
}

// noChange: putting back what was read, in any version, and patching with nothing writes nothing.
func (w *world) noChange(t *testing.T, k *api.Kind, path string) {
	if !slices.Contains(k.ResourceVerbs(), "update") {
		return
	}
	before := w.must(t, http.StatusOK, "GET", path, jsonType, nil)
	for i := range k.Versions {
		if v := &k.Versions[i]; k.HubVersion() == v {
			if got := w.must(t, http.StatusOK, "PUT", path, jsonType, before); got.revision() != before.revision() {
				t.Errorf("a PUT without a change wrote: %v", got)
			}
		}
	}
	if got := w.must(t, http.StatusOK, "PATCH", path, "application/merge-patch+json", object{}); got.revision() != before.revision() {
		t.Errorf("an empty patch wrote: %v", got)
	}
	if !hasStatus(k) {
		return
	}
	if got := w.must(t, http.StatusOK, "PUT", path+"/status", jsonType, before); got.revision() != before.revision() {
		t.Errorf("a PUT of the status without a change wrote: %v", got)
	}
}

// table: one row for each object, one cell for each column.
func (w *world) table(t *testing.T, base, path string) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	_, data := w.call(t, "GET", base, "", "application/json;as=Table;v=v1;g=meta.k8s.io", nil)
	var got metav1.Table
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	_, data = w.call(t, "GET", base, "", jsonType, nil)
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != len(list.Items) || len(got.Rows) == 0 {
		t.Fatalf("%d rows for %d objects", len(got.Rows), len(list.Items))
	}
	found := false
	for _, r := range got.Rows {
		if len(r.Cells) < len(got.ColumnDefinitions) {
			t.Errorf("%d cells for %d columns", len(r.Cells), len(got.ColumnDefinitions))
		}
		found = found || bytes.Contains(r.Object.Raw, []byte(`"name":"`+name+`"`))
	}
	if !found {
		t.Errorf("no row is about %s", name)
	}
}

// doors: whatever a client says of the status at the main door, and of anything but status and metadata at the status door, is
// as if it had said nothing.
func (w *world) doors(t *testing.T, k *api.Kind, path string) {
	if !hasStatus(k) {
		return
	}
	live := w.must(t, http.StatusOK, "GET", path, jsonType, nil)
	rapid.Check(t, func(t *rapid.T) {
		noise := w.random(t, k)
		sent := maps.Clone(live)
		if status, ok := noise["status"]; ok {
			sent["status"] = status
		}
		if got := w.must(t, http.StatusOK, "PUT", path, jsonType, sent); got.revision() != live.revision() {
			t.Fatalf("status through the main door: %v", got)
		}
		sent = maps.Clone(live)
		for key, value := range noise {
			switch key {
			case "status", "metadata", "apiVersion", "kind":
			default:
				sent[key] = value
			}
		}
		if got := w.must(t, http.StatusOK, "PUT", path+"/status", jsonType, sent); got.revision() != live.revision() {
			t.Fatalf("spec through the status door: %v", got)
		}
	})
}

// random is the JSON of a random object of a kind.
func (w *world) random(t *rapid.T, k *api.Kind) object {
	seed := rapid.Int64().Draw(t, "seed")
	f := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, apitest.Fillers), rand.NewSource(seed), runtimeserializer.NewCodecFactory(w.catalogue.Scheme()))
	o := k.HubVersion().New()
	f.MaxDepth(8).NilChance(0.5).NumElements(1, 2).Fill(o)
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var out object
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// apply: the first makes the object, the second changes nothing, and its manager owns what it said.
func (w *world) apply(t *testing.T, path, document string) {
	const patch = "application/apply-patch+yaml"
	first := w.must(t, http.StatusCreated, "PATCH", path+"?fieldManager=me", patch, document)
	second := w.must(t, http.StatusOK, "PATCH", path+"?fieldManager=me", patch, document)
	if first.revision() != second.revision() {
		t.Errorf("applying again wrote: %v", second)
	}
	entries, _ := second.meta()["managedFields"].([]any)
	if len(entries) == 0 || !strings.Contains(fmt.Sprint(entries), "manager:me operation:Apply") {
		t.Errorf("managed fields %v", entries)
	}
}
