package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/apiserver/bootstrap"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/ingress"
	"github.com/celox/celox/internal/network/ingress/route"
	"github.com/celox/celox/internal/network/ingress/serve"
	"github.com/celox/celox/internal/node/objects"
)

// The keys of what nodes have to know of the ingress.
const (
	factIngressHTTP    = "ingress-http-port"
	factIngressHTTPS   = "ingress-https-port"
	factIngressTrusted = "ingress-trusted-proxies"
	factIngressProxy   = "ingress-proxy-protocol"
	factIngressLog     = "ingress-access-log"
)

// ingressFile, in the directory of the pod network, has what an agent serves, with the keys of certificates.
const ingressFile = "ingress"

func ingressData(i config.Ingress) map[string]string {
	return map[string]string{
		factIngressHTTP: strconv.Itoa(i.HTTPPort), factIngressHTTPS: strconv.Itoa(i.HTTPSPort), factIngressTrusted: strings.Join(i.TrustedProxies, ","),
		factIngressProxy: strconv.FormatBool(i.ProxyProtocol), factIngressLog: i.AccessLog,
	}
}

// ingressFrom is what a cluster says of its ingress; one of an earlier version says nothing, and has none.
func ingressFrom(data map[string]string) (config.Ingress, error) {
	i := config.Ingress{AccessLog: data[factIngressLog], ProxyProtocol: data[factIngressProxy] == "true"}
	if data[factIngressHTTP] == "" {
		return i, nil
	}
	var err, err2 error
	i.HTTPPort, err = strconv.Atoi(data[factIngressHTTP])
	i.HTTPSPort, err2 = strconv.Atoi(data[factIngressHTTPS])
	if text := data[factIngressTrusted]; text != "" {
		i.TrustedProxies = strings.Split(text, ",")
	}
	_, err3 := i.Trusted()
	if err := errors.Join(err, err2, err3); err != nil {
		return i, fmt.Errorf("what the cluster says of itself: %w", err)
	}
	return i, nil
}

// startIngress starts what serves Ingresses on ports of this machine.
func (h *host) startIngress(run *group) error {
	cfg := h.facts.ingress
	keep, err := h.keepIngress()
	if err != nil {
		return err
	}
	if cfg.HTTPPort == 0 || slices.Contains(h.facts.disabled, config.IngressController) {
		if keep == nil {
			return nil
		}
		return removed(os.Remove(keep.Path)) // nothing of an earlier configuration should lie about
	}
	trusted, err := cfg.Trusted()
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	log, err := openAccessLog(cfg.AccessLog)
	if err != nil {
		return err
	}
	secrets := &ingressSecrets{changed: func() {}}
	secrets.store = objects.New(h.client, clock.RealClock{}, func(types.UID) { secrets.changed() })
	g, err := ingress.New(ingress.Config{
		Informers: h.informers, Secrets: secrets, HTTPPort: cfg.HTTPPort, HTTPSPort: cfg.HTTPSPort, Tell: h.tellIngress, Say: h.say, Log: h.log, Keep: keep,
		Cores: h.processors.cores, More: h.processors.more,
		Serve: serve.Config{Trusted: trusted, ProxyProtocol: cfg.ProxyProtocol, Resolver: h.clusterResolver(), Access: log.entry()},
	})
	if err != nil {
		return errors.Join(err, log.close())
	}
	secrets.changed = g.Again // nothing is watched before it runs
	if err := h.metrics.Register(g.Server()); err != nil {
		return errors.Join(fmt.Errorf("ingress: %w", err), log.close())
	}
	run.atEnd("ingress access log", log.close)
	run.atEnd("secrets of ingresses", func() error {
		secrets.store.Close()
		return nil
	})
	run.run("ingress", g.Run)
	return nil
}

// keepIngress is where an agent, whose API may be away when it starts, has what it serves; nil on a server's machine.
func (h *host) keepIngress() (*ingress.Keep, error) {
	if h.cluster == "" {
		return nil, nil
	}
	dir := filepath.Join(h.cfg.DataDir, networkDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	return &ingress.Keep{Path: filepath.Join(dir, ingressFile), Cluster: h.cluster}, nil
}

// removed forgives that there was nothing to remove.
func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// clusterResolver asks the cluster's DNS, which answers this node's processes, too.
func (h *host) clusterResolver() *net.Resolver {
	server := netip.AddrPortFrom(h.facts.dns()[0], dnsPort).String()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, server)
	}}
}

// tellIngress writes an event about an Ingress.
func (h *host) tellIngress(i *networkingv1.Ingress, reason, message string) {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	const component = "celox-ingress"
	now := metav1.Now()
	_, err := h.client.CoreV1().Events(i.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: i.Namespace, Name: fmt.Sprintf("%s.%x", i.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Namespace: i.Namespace, Name: i.Name, UID: i.UID, ResourceVersion: i.ResourceVersion},
		Type:           corev1.EventTypeWarning, Reason: reason, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: component, Host: h.cfg.NodeName}, ReportingController: component, ReportingInstance: h.cfg.NodeName,
	}, metav1.CreateOptions{})
	if err != nil {
		h.log.Warn("ingress: event", "namespace", i.Namespace, "ingress", i.Name, "err", err)
	}
}

// ingressSecrets watches the secrets that Ingresses name, each by its name.
type ingressSecrets struct {
	store   *objects.Store
	changed func()
}

// Use implements ingress.Secrets.
func (s *ingressSecrets) Use(names []types.NamespacedName) {
	refs := make([]objects.Ref, len(names))
	for i, n := range names {
		refs[i] = objects.Ref{Kind: objects.Secret, Namespace: n.Namespace, Name: n.Name}
	}
	s.store.Use(config.IngressController, refs)
}

// Secret implements ingress.Secrets.
func (s *ingressSecrets) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return s.store.Secret(ctx, namespace, name)
}

// servedSecret says whether a secret is one that an Ingress of ours refers to: every node serves with it.
func servedSecret(objects *lookup.Objects) func(ctx context.Context, namespace, name string) (bool, error) {
	return func(ctx context.Context, namespace, name string) (bool, error) {
		all, err := objects.Ingresses(ctx, namespace)
		if err != nil || len(all) == 0 {
			return false, err
		}
		classes, err := objects.IngressClasses(ctx)
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(all, func(i *networkingv1.Ingress) bool {
			return slices.Contains(route.SecretsOf(i), name) && route.Ours(i, classes)
		}), nil
	}
}

// ensureIngress makes the class of the built-in ingress, or removes it.
func (s *Server) ensureIngress(ctx context.Context, admin kubernetes.Interface) error {
	if s.cfg.Disables(config.IngressController) {
		return bootstrap.RemoveIngressClass(ctx, admin, route.ClassName, route.Controller)
	}
	return bootstrap.EnsureIngressClass(ctx, admin, route.ClassName, route.Controller)
}

// accessLog is a file of lines of JSON, one for each request. A nil one is none.
type accessLog struct {
	file *os.File

	mu    sync.Mutex
	out   *bufio.Writer // guarded by mu
	timer *time.Timer   // guarded by mu; runs while something is not written yet
}

// logDelay is how long a line may wait for others before it is written.
const logDelay = time.Second

func openAccessLog(path string) (*accessLog, error) {
	if path == "" {
		return nil, nil
	}
	file := os.Stdout
	if path != "-" {
		var err error
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
			return nil, fmt.Errorf("--ingress-access-log: %w", err)
		}
	}
	return &accessLog{file: file, out: bufio.NewWriterSize(file, 64<<10)}, nil
}

// entry is what serve.Config wants.
func (a *accessLog) entry() func(serve.Entry) {
	if a == nil {
		return nil
	}
	return a.write
}

func (a *accessLog) write(e serve.Entry) {
	line, err := json.Marshal(struct {
		Time     time.Time `json:"time"`
		Client   string    `json:"client"`
		Scheme   string    `json:"scheme"`
		Method   string    `json:"method"`
		Host     string    `json:"host"`
		Path     string    `json:"path"`
		Code     int       `json:"code"`
		Bytes    int64     `json:"bytes"`
		Seconds  float64   `json:"seconds"`
		Ingress  string    `json:"ingress,omitempty"`
		Endpoint string    `json:"endpoint,omitempty"`
	}{e.Time.UTC(), e.Client, e.Scheme, e.Method, e.Host, e.Path, e.Code, e.Bytes, e.Took.Seconds(), strings.Trim(e.Ingress.String(), "/"), e.Endpoint})
	if err != nil {
		return // plain values always have a form
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = a.out.Write(append(line, '\n')) // a full disk must not end requests
	if a.timer == nil {
		a.timer = time.AfterFunc(logDelay, a.flush)
	}
}

func (a *accessLog) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = nil
	_ = a.out.Flush() // as above
}

func (a *accessLog) close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
	}
	err := a.out.Flush()
	if a.file != os.Stdout {
		err = errors.Join(err, a.file.Close())
	}
	return err
}
