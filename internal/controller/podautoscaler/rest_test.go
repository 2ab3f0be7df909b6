package podautoscaler

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/client"
)

// served answers paths, with their queries, by JSON.
func served(t *testing.T, answers map[string]string) *API {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.RequestURI()]
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"no %s"}`, r.URL.RequestURI())
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Error(err)
		}
	})
	c, err := client.Clientset(handler, &user.DefaultInfo{Name: "hpa"}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return NewAPI(c.Discovery().RESTClient(), func(gk schema.GroupKind) (schema.GroupVersionResource, bool) {
		switch gk.Kind {
		case "Ingress":
			return schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}, gk.Group == "networking.k8s.io"
		case "ReplicationController":
			return schema.GroupVersionResource{Version: "v1", Resource: "replicationcontrollers"}, true
		}
		return schema.GroupVersionResource{}, false
	})
}

func TestMetricsOverREST(t *testing.T) {
	ctx := context.Background()
	const group = `{"kind":"APIGroup","apiVersion":"v1","name":"custom.metrics.k8s.io","versions":[{"version":"v1beta3"},{"version":"v1beta1"}],"preferredVersion":{"version":"v1beta3"}}`
	a := served(t, map[string]string{
		"/apis/metrics.k8s.io": `{"kind":"APIGroup","apiVersion":"v1","name":"metrics.k8s.io","versions":[{"version":"v1"},{"version":"v1beta1"}],"preferredVersion":{"version":"v1"}}`,
		"/apis/metrics.k8s.io/v1/namespaces/n/pods?labelSelector=a%3Db": `{"items":[
			{"metadata":{"name":"p","namespace":"n"},"timestamp":"2030-01-01T12:00:00Z","window":"15s","containers":[{"name":"c","usage":{"cpu":"100m","memory":"1Ki"}},{"name":"d","usage":{"cpu":"20m"}}]}]}`,
		"/apis/metrics.k8s.io/v1/namespaces/empty/pods?labelSelector=a%3Db": `{"items":[]}`,
		"/apis/custom.metrics.k8s.io":                                       group,
		"/apis/custom.metrics.k8s.io/v1beta1/namespaces/n/pods/%2A/m?labelSelector=a%3Db&metricLabelSelector=x%3Dy": `{"items":[
			{"describedObject":{"name":"p"},"metricName":"m","timestamp":"2030-01-01T12:00:00Z","value":"3"},{"describedObject":{"name":"q"},"metricName":"m","timestamp":"2030-01-01T12:00:00Z","window":30,"value":"1500m"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta1/namespaces/n/ingresses.networking.k8s.io/i/m": `{"items":[{"value":"7"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta1/namespaces/n/metrics/m":                       `{"items":[{"value":"8"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/n/q?labelSelector=x%3Dy":         `{"items":[{"value":"9"},{"value":"1"}]}`,
		"/api/v1/namespaces/n/replicationcontrollers/r/scale":                              `{"metadata":{"name":"r"},"spec":{"replicas":3},"status":{"selector":"a=b","replicas":2}}`,
	})
	pods, series := labels.SelectorFromSet(labels.Set{"a": "b"}), labels.SelectorFromSet(labels.Set{"x": "y"})
	at := noon
	if got, err := a.Resource(ctx, "n", pods, "cpu", ""); err != nil || len(got) != 1 || got["p"].Value != 120 || !got["p"].At.Equal(at) || got["p"].Window != 15*time.Second {
		t.Error(got, err)
	}
	if got, err := a.Resource(ctx, "n", pods, "cpu", "d"); err != nil || got["p"].Value != 20 {
		t.Error(got, err)
	}
	if got, err := a.Resource(ctx, "n", pods, "memory", ""); err != nil || len(got) != 0 {
		t.Error("a pod counts although not all of it was measured", got, err)
	}
	if got, err := a.Pods(ctx, "n", "m", pods, series); err != nil || got["p"].Value != 3000 || got["p"].Window != time.Minute || got["q"].Value != 1500 || got["q"].Window != 30*time.Second {
		t.Error(got, err)
	}
	object := &autoscalingv2.CrossVersionObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Name: "i"}
	if got, err := a.Object(ctx, "n", "m", object, labels.Everything()); err != nil || got != 7000 {
		t.Error(got, err)
	}
	if got, err := a.Object(ctx, "n", "m", &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "n"}, labels.Everything()); err != nil || got != 8000 {
		t.Error(got, err)
	}
	if got, err := a.External(ctx, "n", "q", series); err != nil || len(got) != 2 || got[0] != 9000 {
		t.Error(got, err)
	}
	target := &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "r"}
	if got, err := a.Scale(ctx, "n", target); err != nil || got.Spec.Replicas != 3 || got.Status.Selector != "a=b" {
		t.Error(got, err)
	}
	if got, err := a.Resource(ctx, "n", pods, "cpu", "z"); err != nil || len(got) != 0 {
		t.Error("a pod without the container counts", got, err)
	}
	_, empty := a.Resource(ctx, "empty", pods, "cpu", "")
	_, none := a.External(ctx, "n", "unknown", series)
	_, kind := a.Object(ctx, "n", "m", &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Teapot"}, labels.Everything())
	_, groupKind := a.Object(ctx, "n", "m", &autoscalingv2.CrossVersionObjectReference{APIVersion: "tea/v1", Kind: "Teapot"}, labels.Everything())
	for _, c := range []struct {
		err  error
		want string
	}{
		{empty, "no metrics returned from resource metrics API"},
		{none, "unable to fetch metrics from external metrics API: no /apis/external"},
		{kind, `unable to fetch metrics from custom metrics API: unable to map kind Teapot to resource: no matches for kind "Teapot" in group ""`},
		{groupKind, `unable to fetch metrics from custom metrics API: unable to map kind Teapot.tea to resource: no matches for kind "Teapot" in group "tea"`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}

// TestNobodyMeasures: the words of a server that knows nothing of a group name what was asked for.
func TestNobodyMeasures(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/apis/metrics.k8s.io") && r.URL.Query().Has("labelSelector") {
			http.Error(w, "service unavailable", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/apis/metrics.k8s.io" && r.Header.Get("User-Agent") == "served" {
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write([]byte(`{"kind":"APIGroup","apiVersion":"v1","name":"metrics.k8s.io","versions":[{"version":"v1beta1"}]}`)); err != nil {
				t.Error(err)
			}
			return
		}
		http.NotFound(w, r)
	})
	api := func(agent string) *API {
		c, err := client.Clientset(handler, &user.DefaultInfo{Name: "hpa"}, agent)
		if err != nil {
			t.Fatal(err)
		}
		return NewAPI(c.Discovery().RESTClient(), func(schema.GroupKind) (schema.GroupVersionResource, bool) {
			return schema.GroupVersionResource{Version: "v1", Resource: "services"}, true
		})
	}
	ctx, pods := context.Background(), labels.SelectorFromSet(labels.Set{"a": "b"})
	nothing := api("nothing")
	_, resource := nothing.Resource(ctx, "n", pods, "cpu", "")
	_, ofPods := nothing.Pods(ctx, "n", "q", pods, nil)
	_, object := nothing.Object(ctx, "n", "q", &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "s"}, nil)
	teapots := api("nothing")
	teapots.resolve = func(schema.GroupKind) (schema.GroupVersionResource, bool) {
		return schema.GroupVersionResource{}, false
	}
	_, unknown := teapots.Object(ctx, "n", "q", &autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Teapot", Name: "s"}, nil)
	_, external := nothing.External(ctx, "n", "q", nil)
	_, down := api("served").Resource(ctx, "n", pods, "cpu", "")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"resource", resource, "unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"},
		{"pods", ofPods, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		{"object", object, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		{"object of an unknown kind", unknown, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		{"external", external, "unable to fetch metrics from external metrics API: the server could not find the requested resource (get q.external.metrics.k8s.io)"},
		{"down", down, "unable to fetch metrics from resource metrics API: the server is currently unable to handle the request (get pods.metrics.k8s.io)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.err == nil || tt.err.Error() != tt.want {
				t.Errorf("%v, want %s", tt.err, tt.want)
			}
		})
	}
}

// TestHasScale: a kind has a scale if the resources of its version say so.
func TestHasScale(t *testing.T) {
	a := served(t, map[string]string{
		"/api/v1":                    `{"resources":[{"name":"replicationcontrollers"},{"name":"replicationcontrollers/scale"}]}`,
		"/apis/networking.k8s.io/v1": `{"resources":[{"name":"ingresses"},{"name":"ingresses/status"}]}`,
	})
	for _, tt := range []struct {
		kind schema.GroupKind
		want string
		has  bool
	}{
		{schema.GroupKind{Kind: "ReplicationController"}, "replicationcontrollers", true},
		{schema.GroupKind{Group: "networking.k8s.io", Kind: "Ingress"}, "ingresses.networking.k8s.io", false},
	} {
		if r, has, err := a.HasScale(context.Background(), tt.kind); err != nil || has != tt.has || r.String() != tt.want {
			t.Errorf("%s: %s %t %v", tt.kind, r, has, err)
		}
	}
	if _, _, err := a.HasScale(context.Background(), schema.GroupKind{Kind: "Teapot"}); err == nil {
		t.Error("no error about a kind that there is not")
	}
}
