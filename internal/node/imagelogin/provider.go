package imagelogin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

const (
	// timeout is how long a plugin may take.
	timeout = time.Minute
	// lateOutput is how long the output of a plugin that ended is awaited if somebody else holds it open.
	lateOutput = time.Second
	// maxOutput is how much a plugin may say.
	maxOutput = 1 << 20
	// maxComplaint is how much of a plugin's complaints is told.
	maxComplaint = 1 << 10
)

// Config is what Open needs.
type Config struct {
	Path   string // a CredentialProviderConfig, or a directory of some
	BinDir string // where the plugins are
	// Account finds a service account, and Token gets a token of a pod's; they are asked for providers that want tokens.
	Account func(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Token   func(ctx context.Context, pod *corev1.Pod, audience string) (string, error)
	Clock   clock.PassiveClock
	Log     *slog.Logger
}

// Login lets into a registry.
type Login struct {
	Username, Password string
	// Account is whose token the login was got with; nil: it is the node's own, and good for every pod.
	Account *Account
}

// Account names a service account.
type Account struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// Providers are the credential providers of a node. Its methods are safe for concurrent use.
type Providers struct {
	cfg    Config
	list   []*provider
	errors *prometheus.CounterVec
	took   *prometheus.HistogramVec
	hash   prometheus.Gauge
}

// Open reads the configuration and finds the plugins.
func Open(cfg Config) (*Providers, error) {
	all, hash, err := read(cfg.Path)
	if err == nil {
		err = validate(all)
	}
	if err != nil {
		return nil, fmt.Errorf("image credential providers: %w", err)
	}
	p := &Providers{
		cfg: cfg,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_credential_provider_plugin_errors_total", Help: "Plugins that failed when they were asked for credentials.",
		}, []string{"plugin_name"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_credential_provider_plugin_duration", Help: "Seconds that plugins took to answer.", Buckets: prometheus.DefBuckets,
		}, []string{"plugin_name"}),
		hash: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kubelet_credential_provider_config_info", Help: "Which configuration is in force.", ConstLabels: prometheus.Labels{"hash": hash},
		}),
	}
	p.hash.Set(1)
	for _, s := range all {
		path, err := program(cfg.BinDir, s.Name)
		if err != nil {
			return nil, fmt.Errorf("image credential providers: %w", err)
		}
		p.list = append(p.list, &provider{settings: s, all: p, program: path, kept: map[key]answer{}, busy: map[string]chan struct{}{}})
	}
	return p, nil
}

// Metrics count what plugins do.
func (p *Providers) Metrics() []prometheus.Collector {
	return []prometheus.Collector{p.errors, p.took, p.hash}
}

// For lists the logins for an image of a pod, which is named without tag and digest, in the order in which they are to be tried. A plugin that fails has none.
func (p *Providers) For(ctx context.Context, pod *corev1.Pod, image string) []Login {
	all := map[string][]Login{} // by pattern
	for _, pr := range p.list {
		auths, account, err := pr.ask(ctx, pod, image)
		if err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("no credentials from a provider", "provider", pr.Name, "image", image, "pod", pod.Namespace+"/"+pod.Name, "err", err)
		}
		for name, a := range auths {
			pattern := patternOf(name)
			all[pattern] = append(all[pattern], Login{a.Username, a.Password, account})
		}
	}
	var fit []string
	for pattern := range all {
		if matches(pattern, image) {
			fit = append(fit, pattern)
		}
	}
	if r := registryOf(image); fit == nil && (r == defaultRegistry || r == dockerHub) {
		fit = []string{dockerHub}
	}
	// What is longer, and what has no wildcard, comes first; of the same patterns that of the earlier provider.
	slices.Sort(fit)
	var out []Login
	for _, pattern := range slices.Backward(fit) {
		out = append(out, all[pattern]...)
	}
	return out
}

// provider is one program that is asked.
type provider struct {
	settings
	all     *Providers
	program string

	mu   sync.Mutex               // guards what follows
	kept map[key]answer           // by what an answer is for
	busy map[string]chan struct{} // images that the plugin is asked about; closed when it has answered
}

// key is what a kept answer is for: images, and who asked.
type key struct{ images, who string }

// answer are the logins of a response.
type answer struct {
	auths   map[string]auth
	expires time.Time
}

type auth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// request and response are what a plugin is told and answers.
type request struct {
	Kind        string            `json:"kind"`
	APIVersion  string            `json:"apiVersion"`
	Image       string            `json:"image"`
	Token       string            `json:"serviceAccountToken,omitempty"`
	Annotations map[string]string `json:"serviceAccountAnnotations,omitempty"`
}

type response struct {
	Kind          string           `json:"kind"`
	APIVersion    string           `json:"apiVersion"`
	CacheKeyType  string           `json:"cacheKeyType"`
	CacheDuration *metav1.Duration `json:"cacheDuration"`
	Auth          map[string]auth  `json:"auth"`
}

// global is for all images that a provider knows; no image is called so.
const global = "<global>"

// ask gets the logins for an image by their patterns, from what is kept or from the plugin, and whose token it was shown.
func (p *provider) ask(ctx context.Context, pod *corev1.Pod, image string) (map[string]auth, *Account, error) {
	if !slices.ContainsFunc(p.MatchImages, func(pattern string) bool { return matches(pattern, image) }) {
		return nil, nil, nil
	}
	req := request{Kind: "CredentialProviderRequest", APIVersion: p.APIVersion, Image: image}
	var account *Account
	var who string
	if t := p.TokenAttributes; t != nil {
		if pod.Spec.ServiceAccountName == "" && *t.RequireServiceAccount {
			return nil, nil, nil
		}
		if pod.Spec.ServiceAccountName != "" {
			a, err := p.introduce(ctx, pod, &req)
			if a == nil || err != nil {
				return nil, nil, err
			}
			account = a
			parts := []any{a, req.Annotations}
			if t.CacheType == perToken {
				sum := sha256.Sum256([]byte(req.Token))
				parts = append(parts, sum[:])
			}
			text, err := json.Marshal(parts)
			if err != nil {
				return nil, nil, err
			}
			who = string(text)
		}
	}
	done, err := p.claim(ctx, image)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	for _, images := range []string{image, registryOf(image), global} {
		if auths, ok := p.lookup(key{images, who}); ok {
			return auths, account, nil
		}
	}
	auths, err := p.fetch(ctx, req, who)
	return auths, account, err
}

// claim waits until nobody else asks about an image: the answer may be for all who wait.
func (p *provider) claim(ctx context.Context, image string) (done func(), err error) {
	for {
		p.mu.Lock()
		others := p.busy[image]
		if others == nil {
			mine := make(chan struct{})
			p.busy[image] = mine
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				delete(p.busy, image)
				close(mine)
			}, nil
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-others:
		}
	}
}

// introduce adds to a request who the pod is. It returns nil if its service account does not want this provider.
func (p *provider) introduce(ctx context.Context, pod *corev1.Pod, req *request) (*Account, error) {
	t := p.TokenAttributes
	sa, err := p.all.cfg.Account(ctx, pod.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return nil, fmt.Errorf("service account: %w", err)
	}
	req.Annotations = map[string]string{}
	for _, k := range t.RequiredAnnotations {
		v, ok := sa.Annotations[k]
		if !ok {
			return nil, nil
		}
		req.Annotations[k] = v
	}
	for _, k := range t.OptionalAnnotations {
		if v, ok := sa.Annotations[k]; ok {
			req.Annotations[k] = v
		}
	}
	if req.Token, err = p.all.cfg.Token(ctx, pod, t.Audience); err != nil {
		return nil, fmt.Errorf("service account token: %w", err)
	}
	return &Account{Namespace: sa.Namespace, Name: sa.Name, UID: string(sa.UID)}, nil
}

// fetch asks the plugin and keeps what it says.
func (p *provider) fetch(ctx context.Context, req request, who string) (map[string]auth, error) {
	resp, err := p.run(ctx, req)
	if err != nil {
		return nil, err
	}
	if req.Token != "" && p.TokenAttributes.CacheType != perToken {
		for _, a := range resp.Auth {
			if a.Password == req.Token { // it would be kept for pods that it was not made for
				return nil, errors.New("the plugin answered with the service account's token as password, which needs cacheType " + perToken)
			}
		}
	}
	k := key{who: who}
	switch resp.CacheKeyType {
	case "Image":
		k.images = req.Image
	case "Registry":
		k.images = registryOf(req.Image)
	case "Global":
		k.images = global
	default:
		return nil, fmt.Errorf("the plugin answered with cacheKeyType %q: it must be Image, Registry or Global", resp.CacheKeyType)
	}
	life := p.DefaultCacheDuration.Duration
	if resp.CacheDuration != nil {
		life = resp.CacheDuration.Duration
	}
	if life > 0 {
		p.keep(k, answer{resp.Auth, p.all.cfg.Clock.Now().Add(life)})
	}
	return resp.Auth, nil
}

func (p *provider) lookup(k key) (map[string]auth, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.kept[k]
	if !ok || p.all.cfg.Clock.Now().After(a.expires) {
		return nil, false
	}
	return a.auths, true
}

func (p *provider) keep(k key, a answer) {
	now := p.all.cfg.Clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.kept, func(_ key, old answer) bool { return now.After(old.expires) })
	p.kept[k] = a
}

// run runs the plugin. Its output is not told in errors: it has credentials.
func (p *provider) run(ctx context.Context, req request) (*response, error) {
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.program, p.Args...)
	cmd.WaitDelay = lateOutput
	cmd.Env = os.Environ()
	for _, v := range p.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	out, complaint := &bounded{left: maxOutput}, &bounded{left: maxComplaint}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), out, complaint
	began := p.all.cfg.Clock.Now()
	err = cmd.Run()
	p.all.took.WithLabelValues(p.Name).Observe(p.all.cfg.Clock.Since(began).Seconds())
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case out.over:
		err = fmt.Errorf("the plugin says more than %d bytes", maxOutput)
	case err != nil && len(complaint.data) > 0:
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.data))
	}
	if err != nil {
		p.all.errors.WithLabelValues(p.Name).Inc()
		return nil, err
	}
	var resp response
	if json.Unmarshal(out.data, &resp) != nil {
		return nil, errors.New("the plugin's answer is no JSON of a CredentialProviderResponse")
	}
	if resp.Kind != "CredentialProviderResponse" || resp.APIVersion != p.APIVersion {
		return nil, fmt.Errorf("the plugin answered with a %q of %q: it must be a CredentialProviderResponse of %q", resp.Kind, resp.APIVersion, p.APIVersion)
	}
	return &resp, nil
}

// bounded keeps the beginning of what is written.
type bounded struct {
	data []byte
	left int
	over bool // there was more
}

// Write implements io.Writer.
func (b *bounded) Write(data []byte) (int, error) {
	n := min(len(data), b.left)
	b.left -= n
	b.data = append(b.data, data[:n]...)
	b.over = b.over || n < len(data)
	return len(data), nil
}
