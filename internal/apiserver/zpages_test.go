package apiserver

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestZPages(t *testing.T) {
	h := newServer(t, func(c *Config) {
		c.Flags = func() map[string]string { return map[string]string{"https-port": "6443", "bind-address": "::"} }
	}).Handler()
	const structured = "application/json;as=%;v=v1beta1;g=config.k8s.io"
	for page, text := range map[string]string{
		"/statusz": "Paths: /flagz /healthz /livez /metrics /readyz /statusz /version\n",
		"/flagz":   "\n\nbind-address=::\nhttps-port=6443\n",
	} {
		kind := strings.ToUpper(page[1:2]) + page[2:]
		for _, accept := range []string{"", "*/*", "text/plain", "application/json, */*"} {
			w := call(t, h, "GET", page, "", "Accept", accept)
			if got := w.Body.String(); w.Code != 200 || !strings.HasPrefix(got, "\napiserver "+page[1:]+"\nWarning: ") || !strings.Contains(got, text) {
				t.Errorf("%s %q: %d %s", page, accept, w.Code, got)
			}
		}
		w := call(t, h, "GET", page, "", "Accept", strings.Replace(structured, "%", kind, 1))
		var got struct {
			Kind, APIVersion, BinaryVersion string
			Metadata                        struct{ Name string }
			Paths                           []string
			Flags                           map[string]string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Kind != kind || got.APIVersion != "config.k8s.io/v1beta1" || got.Metadata.Name != component {
			t.Errorf("%s: %v %s", page, err, w.Body)
		}
		if kind == "Flagz" && got.Flags["https-port"] != "6443" || kind == "Statusz" && len(got.Paths) == 0 {
			t.Errorf("%+v", got)
		}
		if w := call(t, h, "GET", page, "", "Accept", "application/json"); w.Code != 406 {
			t.Errorf("%s: %d %s", page, w.Code, w.Body)
		}
		if w := call(t, h, "GET", page, "", "X-User", "dave"); w.Code != 403 {
			t.Errorf("%s: %d %s", page, w.Code, w.Body)
		}
	}
	if w := call(t, newServer(t).Handler(), "GET", "/flagz", ""); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
