package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	custom   = "/apis/custom.metrics.k8s.io/v1beta2"
	external = "/apis/external.metrics.k8s.io/v1beta1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "gauge:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	listen := flag.String("listen", ":8443", "where to listen")
	cert := flag.String("cert", "/certs/tls.crt", "the server's certificate")
	key := flag.String("key", "/certs/tls.key", "its key")
	values := flag.String("values", "/values/values.json", "the file with the values")
	api := flag.String("api", "", "host:port of the cluster's API, if it is not to be reached through its service")
	flag.Parse()
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	if *api != "" {
		config.Host, config.ServerName = "https://"+*api, "kubernetes.default.svc"
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	s := &http.Server{Addr: *listen, Handler: &gauge{client, *values}, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServeTLS(*cert, *key) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return errors.Join(err, s.Close())
}

// gauge answers requests.
type gauge struct {
	client kubernetes.Interface
	values string
}

// value is an entry of a list of either group; each leaves out what is the other's.
type value struct {
	DescribedObject *object           `json:"describedObject,omitempty"`
	Metric          *metric           `json:"metric,omitempty"`
	MetricName      string            `json:"metricName,omitempty"`
	MetricLabels    map[string]string `json:"metricLabels,omitempty"`
	Timestamp       metav1.Time       `json:"timestamp"`
	Value           resource.Quantity `json:"value"`
}

type object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

type metric struct {
	Name string `json:"name"`
}

// ServeHTTP implements http.Handler.
func (g *gauge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for root, resources := range map[string][]metav1.APIResource{
		custom:   {{Name: "pods/requests", Kind: "MetricValueList", Namespaced: true, Verbs: metav1.Verbs{"get"}}},
		external: {{Name: "queue", Kind: "ExternalMetricValueList", Namespaced: true, Verbs: metav1.Verbs{"get"}}},
	} {
		gv := strings.TrimPrefix(root, "/apis/")
		if r.URL.Path == root {
			say(w, http.StatusOK, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv, APIResources: resources})
			return
		}
		path, ok := strings.CutPrefix(r.URL.Path, root+"/namespaces/")
		if !ok {
			continue
		}
		items, err := g.measure(r, strings.Split(path, "/"))
		if err != nil {
			say(w, http.StatusNotFound, metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: err.Error()})
			return
		}
		say(w, http.StatusOK, map[string]any{"kind": resources[0].Kind, "apiVersion": gv, "metadata": map[string]any{}, "items": items})
		return
	}
	if r.URL.Path == "/readyz" {
		say(w, http.StatusOK, "ok")
		return
	}
	http.NotFound(w, r)
}

func say(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who is gone asks again
}

// measure answers for a path below the namespaces of a group.
func (g *gauge) measure(r *http.Request, path []string) ([]value, error) {
	now, namespace := metav1.Now(), path[0]
	switch len(path) {
	case 2:
		q, err := g.read(path[1], r.URL.Query().Get("labelSelector"))
		return []value{{MetricName: path[1], MetricLabels: map[string]string{}, Timestamp: now, Value: q}}, err
	case 4:
		kind, name, what := path[1], path[2], path[3]
		series := r.URL.Query().Get("metricLabelSelector")
		if kind != "pods" || name != "*" {
			q, err := g.read(strings.Join(path[1:], "/"), series)
			return []value{{DescribedObject: &object{kind, namespace, name}, Metric: &metric{what}, Timestamp: now, Value: q}}, err
		}
		q, err := g.read("pods/"+what, series)
		if err != nil {
			return nil, err
		}
		pods, err := g.client.CoreV1().Pods(namespace).List(r.Context(), metav1.ListOptions{LabelSelector: r.URL.Query().Get("labelSelector")})
		if err != nil {
			return nil, err
		}
		out := []value{}
		for i := range pods.Items {
			out = append(out, value{DescribedObject: &object{"Pod", namespace, pods.Items[i].Name}, Metric: &metric{what}, Timestamp: now, Value: q})
		}
		return out, nil
	}
	return nil, fmt.Errorf("there is nothing at %v", path)
}

// read is what the file says of a metric now.
func (g *gauge) read(name, selector string) (resource.Quantity, error) {
	if selector != "" {
		name += "{" + selector + "}"
	}
	data, err := os.ReadFile(g.values)
	if err != nil {
		return resource.Quantity{}, err
	}
	var all map[string]resource.Quantity
	if err := json.Unmarshal(data, &all); err != nil {
		return resource.Quantity{}, err
	}
	q, ok := all[name]
	if !ok {
		return q, fmt.Errorf("nobody measures %s", name)
	}
	return q, nil
}
