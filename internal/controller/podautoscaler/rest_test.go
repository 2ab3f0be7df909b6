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
	for _, c := range []struct {
		err  error
		want string
	}{
		{empty, "no metrics returned from resource metrics API"},
		{none, "unable to fetch metrics from external metrics API: no /apis/external"},
		{kind, `no matches for kind "Teapot"`},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}
