package custom

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/apiserver/webhook"
)

// converting is a definition whose webhook is change, and counts the calls.
func converting(t *testing.T, change func(map[string]any)) (*Definition, *atomic.Int32) {
	t.Helper()
	calls := &atomic.Int32{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		var review apiextensionsv1.ConversionReview
		if err := json.Unmarshal(body, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, o := range review.Request.Objects {
			var m map[string]any
			_ = json.Unmarshal(o.Raw, &m)
			m["apiVersion"] = review.Request.DesiredAPIVersion
			change(m)
			raw, _ := json.Marshal(m)
			review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Raw: raw})
		}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(&review)
	}))
	t.Cleanup(server.Close)
	client := webhook.New(nil)
	t.Cleanup(func() { _ = client.Close() })
	d := define(t, twoVersions)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	d.crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &server.URL, CABundle: bundle}, ConversionReviewVersions: []string{"v2", "v1"},
	}}
	d.converter = newConverter(d, Hooks{Webhooks: client})
	return d, calls
}

// TestWebhook: all objects are converted in one call, and only labels and annotations of metadata may change.
func TestWebhook(t *testing.T) {
	d, calls := converting(t, func(m map[string]any) {
		m["spec"] = map[string]any{"b": "converted", "unknown": 1}
		meta := m["metadata"].(map[string]any)
		meta["labels"] = map[string]any{"by": "webhook"}
		meta["generation"] = 99
	})
	v1, _ := d.Served("v1")
	v2, _ := d.Served("v2")
	in := []*Object{object(t, v1, `{metadata: {name: x}, spec: {a: "1"}}`), object(t, v1, `{metadata: {name: u}, spec: {a: "2"}}`), object(t, v2, `{metadata: {name: z}}`)}
	in[0].Generation = 7
	out, err := d.ConvertTo(t.Context(), in, v2)
	if err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 1 || len(out) != 3 || out[2] != in[2] {
		t.Errorf("%d calls for %v", calls.Load(), out)
	}
	spec, _ := out[0].Fields["spec"].(map[string]any)
	if spec["b"] != "converted" || len(spec) != 1 || out[0].Labels["by"] != "webhook" || out[0].Generation != 7 || in[0].Labels != nil {
		t.Errorf("%+v", out[0])
	}
}

func TestWebhookErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"another name":    {func(m map[string]any) { m["metadata"].(map[string]any)["name"] = "other" }, "conversion webhook for example.com/v1, Kind=Thing returned invalid object: must have the same name: x != other"},
		"another kind":    {func(m map[string]any) { m["kind"] = "Other" }, "invalid kind (expected Thing, received Other)"},
		"another version": {func(m map[string]any) { m["apiVersion"] = "example.com/v9" }, "invalid groupVersion (expected example.com/v2, received example.com/v9)"},
		"no metadata":     {func(m map[string]any) { delete(m, "metadata") }, "must have the same name: x != "},
		"bad labels":      {func(m map[string]any) { m["metadata"].(map[string]any)["labels"] = map[string]any{"a b": "c"} }, "returned invalid metadata: metadata.labels: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := converting(t, c.change)
			v1, _ := d.Served("v1")
			v2, _ := d.Served("v2")
			if _, err := d.ConvertTo(t.Context(), []*Object{object(t, v1, `{metadata: {name: x}}`)}, v2); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	d, _ := converting(t, func(map[string]any) {})
	d.converter = newConverter(d, Hooks{})
	v1, _ := d.Served("v1")
	v2, _ := d.Served("v2")
	if _, err := d.ConvertTo(t.Context(), []*Object{object(t, v1, `{metadata: {name: x}}`)}, v2); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("without a client: %v", err)
	}
}
